#!/usr/bin/env bash
# Asks for a TPU slice, or several, as a queued resource. Returns at once: wait.sh waits until it is there.
#
#   create.sh --name NAME --zone ZONE --accelerator v5e-16 --spot
#   create.sh --name NAME --zone ZONE --accelerator v5p-256 --slices 4 --reserved
#
#   --accelerator TYPE      v4-N, v5p-N (N TensorCores), v5e-N, v6e-N (N chips)
#   --slices N              slices that train together over the data-center network; default 1
#   --spot                  cheap, and taken away at any time; supervise.sh asks again
#   --reserved              from the project's reservation; without either, on demand
#   --runtime VERSION       machine image; default: the one for the accelerator
#   --service-account MAIL  whose rights the workers have, for the bucket
#   --network, --subnetwork default: the project's
#   --internal-ips          no addresses of their own; the workers then need Cloud NAT to install anything
#   --valid-for DURATION    give up the request after so long in the queue, such as 6h
#   --project ID, --dry-run, --help
#
# Docs: https://cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources/create
source "$(dirname "$0")/lib.sh"

accelerator='' slices=1 runtime='' service_account='' network='' subnetwork='' valid_for='' spot='' reserved='' internal_ips=''
parse "accelerator slices runtime service-account network subnetwork valid-for" "spot reserved internal-ips" "$@"
need name zone accelerator
accelerator=$(accelerator_of "$accelerator")
check number --slices "$slices"
((slices >= 1 && slices <= 256)) || die 2 "--slices: found $slices, expected 1 to 256"
[[ -z "$spot" || -z "$reserved" ]] || die 2 "--spot: found it beside --reserved, expected one of the two"

words=(compute tpus queued-resources create "$name" "${where[@]}")
words+=(--accelerator-type="$accelerator" --runtime-version="${runtime:-$(runtime_of "$accelerator")}")
if ((slices == 1)); then
  words+=(--node-id="$name")
else # nodes are called NAME-0, NAME-1, …
  words+=(--node-count="$slices" --node-prefix="$name")
fi
words+=(--labels="speech_jax=$name,speech_jax_slices=$slices")
[[ -z "$spot" ]] || words+=(--spot)
[[ -z "$reserved" ]] || words+=(--reserved)
[[ -z "$internal_ips" ]] || words+=(--internal-ips)
if [[ -n "$runtime" ]]; then check path --runtime "$runtime"; fi
if [[ -n "$network" ]]; then check name --network "$network" && words+=(--network="$network"); fi
if [[ -n "$subnetwork" ]]; then check name --subnetwork "$subnetwork" && words+=(--subnetwork="$subnetwork"); fi
if [[ -n "$valid_for" ]]; then check duration --valid-for "$valid_for" && words+=(--valid-until-duration="$valid_for"); fi
if [[ -n "$service_account" ]]; then
  check account --service-account "$service_account"
  words+=(--service-account="$service_account" --scopes=https://www.googleapis.com/auth/cloud-platform)
fi
code=0
cloud "${words[@]}" --async --quiet || code=$?
((code != 6)) || die 3 "$name: $(tr '\n' ' ' <"$scratch/error")" # a type or a network that is not there
((code == 0)) || exit $code
[[ -n "$dry_run" ]] || say "$name: asked for $slices x $accelerator in $zone"

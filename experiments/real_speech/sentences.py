"""English sentences to be read aloud: from Debian's fortunes, and telephone prompts of a small grammar."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

from speech_jax.core.errors import UserError
from speech_jax.data.manifest import read_manifest
from speech_jax.data.recipes.clips import letters_only

# Not prose, not English, or not for everyone.
_SKIPPED = {
    "ascii-art",
    "translate-me",
    "perl",
    "debian",
    "goedel",
    "drugs",
    "ethnic",
    "men-women",
    "politics",
    "zippy",
}
_PLAIN = re.compile(r"[A-Z][a-z' ,;:\"A-Z-]*[.!?]")
_PROMPTS = (
    "please enter your [number] followed by the [key] key",
    "press [digit] to [verb] your [item]",
    "press [digit] to [verb] your [item] or press [digit] to [verb] your [item]",
    "press [digit] for [department] [digit] for [department] or the [key] key to [end]",
    "you have [count] [state] [item]s in your [place]",
    "your [item] has been [done]",
    "your [item] will be [done] [when]",
    "to [verb] this [item] press [digit] then the [key] key",
    "the [number] you entered is not [valid]",
    "the [number] you have dialed is not [valid] please try again [when]",
    "i am sorry that [number] was not recognized",
    "thank you for calling [department] all agents are busy [when]",
    "you are caller number [count] in the queue for [department]",
    "the [item] was received at [count] [clock] on [day] [month] the [ordinal]",
    "the time is [count] [clock] and [count] seconds",
    "today is [day] [month] the [ordinal]",
    "please hold while i connect you to [department]",
    "the participant at extension [digit] [digit] [digit] has [moved] the conference",
    "there are [count] participants in conference [digit] [digit]",
    "recording will begin [when] after the tone",
    "say or spell the name of the person you wish to reach",
    "account [digit] [digit] [digit] [digit] has [count] minutes remaining",
    "your call cannot be transferred to extension [digit] [digit] [digit]",
    "[department] is [valid] from [count] [clock] until [count] [clock]",
    "wake up call for room [digit] [digit] [digit] has been [done] for [count] [clock]",
    "[letter] [letter] [letter] [digit] [digit] [digit]",
    "[digit] [digit] [digit] [digit] [digit]",
    "[phonetic] [phonetic] [phonetic]",
    "the price is [count] dollars and [count] cents a minute",
    "the temperature is [count] degrees and the wind is [count] miles an hour",
)
_WORDS = {
    "number": "extension_number,account_number,password,mailbox_number,agent_number,conference_number,pin,"
    "area_code,telephone_number,credit_card_number,access_code,destination",
    "key": "pound,star,hash",
    "digit": "zero,one,two,three,four,five,six,seven,eight,nine",
    "verb": "hear,delete,save,forward,repeat,record,change,accept,cancel,skip,replay,send,check,review,mute,unmute",
    "item": "message,greeting,call,password,recording,extension,folder,mailbox,name,conference,order,transfer",
    "department": "sales,technical_support,customer_service,billing,the_operator,human_resources,the_front_desk,"
    "accounting,the_directory,security,marketing,reservations",
    "end": "exit,hang_up,return_to_the_main_menu,start_over,hear_more_options,leave_a_message",
    "count": "one,two,three,four,five,six,seven,eight,nine,ten,eleven,twelve,fifteen,eighteen,twenty,thirty,forty_five,"
    "fifty_one,sixty,seventy_two,eighty_three,ninety_six",
    "state": "new,old,urgent,saved,unread,deleted",
    "place": "inbox,mailbox,work_folder,family_folder,friends_folder,queue",
    "done": "saved,deleted,forwarded,canceled,recorded,activated,disconnected,transferred,scheduled,enabled,disabled",
    "when": "now,immediately,at_this_time,later,in_a_moment,tomorrow,shortly",
    "valid": "valid,available,in_service,complete,authorized,open,registered",
    "clock": "o'clock,a_m,p_m,hours",
    "day": "monday,tuesday,wednesday,thursday,friday,saturday,sunday",
    "month": "january,february,march,april,may,june,july,august,september,october,november,december",
    "ordinal": "first,second,third,fourth,fifth,sixth,seventh,eighth,ninth,tenth,twelfth,fifteenth,twentieth,"
    "twenty_first,thirtieth",
    "moved": "joined,left,entered,locked,muted",
    "letter": ",".join("abcdefghijklmnopqrstuvwxyz"),
    "phonetic": "alpha,bravo,charlie,delta,echo,foxtrot,golf,hotel,india,juliet,kilo,lima,mike,november,oscar,papa,"
    "quebec,romeo,sierra,tango,uniform,victor,whiskey,xray,yankee,zulu",
}


def sentences(fortunes: Path, held_out: Sequence[Path], *, prompt_share: float, seed: int) -> list[str]:
    """A shuffled list without repetition and without any sentence (letters only) of the `held_out` manifests.

    prompt_share: share of telephone prompts among them.
    """
    forbidden = {letters_only(u.text) for path in held_out for u in read_manifest(path)}
    generator = random.Random(seed)
    prose = read_fortunes(fortunes)
    prompts: dict[str, None] = {}
    wanted = int(len(prose) * prompt_share / (1 - prompt_share))
    while len(prompts) < wanted:
        prompts[_prompt(generator)] = None
    found: dict[str, str] = {}
    for text in [*prose, *prompts]:
        key = letters_only(text)
        if key not in forbidden:
            found.setdefault(key, text)
    result = list(found.values())
    generator.shuffle(result)
    return result


def read_fortunes(folder: Path) -> list[str]:
    """Plain sentences of 12 to 130 letters: no figures, no abbreviations, no words in capitals."""
    files = [p for p in sorted(folder.glob("*")) if not p.suffix and p.name not in _SKIPPED and p.is_file()]
    if not files:
        raise UserError(
            f"{folder}: found no fortunes, expected usr/share/games/fortunes of the Debian package fortunes"
        )
    found: dict[str, None] = {}
    for path in files:
        for fortune in path.read_text(encoding="utf-8", errors="replace").split("\n%\n"):
            prose = " ".join(line.strip() for line in fortune.split("\n") if not line.strip().startswith("--"))
            for sentence in re.split(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]*[A-Z])", prose):
                sentence = sentence.replace("--", ",").strip("\"' ()")
                words = sentence.split()
                if not _PLAIN.fullmatch(sentence) or not 12 <= len(sentence) <= 130 or len(words) < 3:
                    continue
                if any(re.search(r"[A-Z].*[A-Z]", w) or not re.search("[aeiouyAEIOUY]", w) for w in words):
                    continue
                found[sentence] = None
    return list(found)


def _prompt(generator: random.Random) -> str:
    pattern = generator.choice(_PROMPTS)
    choose = lambda m: generator.choice(_WORDS[m[1]].split(",")).replace("_", " ")  # noqa: E731
    return re.sub(r"\[(\w+)\]", choose, pattern).capitalize() + "."

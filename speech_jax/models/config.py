"""Settings of the networks, apart from the networks: reading a config or a `--help` loads no Flax."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from speech_jax.core.config_dict import new_field
from speech_jax.core.errors import UserError


@dataclass(frozen=True)
class ConformerConfig:
    """A Conformer encoder with a CTC head. The defaults are NeMo's Conformer-CTC small."""

    num_features: int = 80
    """Feature bands a frame (mel bands, or cepstra)."""
    width: int = 176
    """Channels of the encoder (d_model)."""
    layers: int = 16
    """Conformer layers."""
    heads: int = 4
    """Attention heads; must divide the width."""
    feed_forward_multiple: int = 4
    """Hidden channels of the feed-forward modules, in units of the width."""
    kernel_size: int = 31
    """Frames that the depthwise convolution sees; odd."""
    subsampling: Literal["striding", "dw_striding"] = "striding"
    """Full strided convolutions, or depthwise-separable ones (FastConformer; cheaper)."""
    subsampling_factor: Literal[4, 8] = 4
    """Feature frames per encoder frame."""
    subsampling_channels: int = 0
    """Channels of the subsampling convolutions; 0 means as many as the width."""
    conv_norm: Literal["batch", "layer", "group"] = "batch"
    """Norm inside the convolution module. Batch statistics are over valid frames only."""
    conv_norm_groups: int = 16
    """Groups of the group norm; must divide the width."""
    use_bias: bool = True
    """Biases in the linear and convolution layers of the Conformer layers."""
    xscaling: bool = True
    """Multiply the subsampled vectors by sqrt(width)."""
    dropout: float = 0.1
    """Dropout in and after the feed-forward, attention and convolution modules."""
    dropout_pre_encoder: float = 0.1
    """Dropout of the subsampled vectors."""
    dropout_emb: float = 0.0
    """Dropout of the position sinusoids."""
    dropout_att: float = 0.1
    """Dropout of the attention weights."""
    stochastic_depth: float = 0.0
    """Chance that the last layer is skipped for an utterance in training; it rises linearly from 0 at the first."""
    remat: bool = False
    """Compute the layers' activations again in the backward pass: less memory, about a third more time."""
    remat_keeps: Literal["nothing", "products"] = new_field("nothing")
    """What of a layer is not computed again: nothing, or what comes out of its matrix products and its attention.
    Norms, activations and dropout still are, which costs a chip little and saves it much traffic."""
    scan_layers: bool = False
    """Run the layers as one loop: compiles in the time of one layer, but a step on a CPU takes a quarter longer."""
    attention_block: int = new_field(0)
    """Queries that attend at a time; 0 takes all at once. The memory of long recordings then grows with their length,
    not with its square, for about a third more time in attention."""
    attention_fused: bool = new_field(False)
    """Attend in a kernel of our own on a TPU, in which scores never leave the chip; elsewhere, and for recordings too
    long for it (about 1,900 frames of the encoder), in blocks of `attention_block`, or of 128 where that is 0."""
    attention_fused_gpu: bool = new_field(False)
    """Attend in kernels of our own on an NVIDIA GPU, recordings of any length, heads of at most 128 channels (64 in
    float32); elsewhere as without. They have been run by an interpreter and compiled for an H100, never run on a GPU:
    compare the losses of some steps before you trust them."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What is computed in. Parameters, norms' statistics, softmax and logits are float32 always."""

    def __post_init__(self) -> None:
        for ok, text in (
            (self.width % self.heads == 0, f"width {self.width} with {self.heads} heads, expected a multiple of them"),
            (self.width % 2 == 0, f"width {self.width}, expected an even number"),
            (self.kernel_size % 2 == 1, f"kernel_size {self.kernel_size}, expected an odd number"),
            (self.attention_block >= 0, f"attention_block {self.attention_block}, expected 0 or more"),
            (self.layers >= 1, f"layers {self.layers}, expected at least 1"),
            (
                self.conv_norm != "group" or self.width % self.conv_norm_groups == 0,
                f"conv_norm_groups {self.conv_norm_groups}, expected a divisor of the width {self.width}",
            ),
            (0 <= self.stochastic_depth < 1, f"stochastic_depth {self.stochastic_depth}, expected 0 <= p < 1"),
        ):
            if not ok:
                raise UserError(f"ConformerConfig: found {text}")


@dataclass(frozen=True)
class CRNNConfig:
    """Convolutions, bidirectional recurrent layers, CTC head."""

    num_features: int = 80
    """Feature bands a frame (mel bands, or cepstra)."""
    cell: Literal["lstm", "gru"] = "lstm"
    """The recurrent cell; its arithmetic is torch's."""
    layers: int = 4
    """Bidirectional recurrent layers."""
    width: int = 320
    """Channels of each direction."""
    subsampling: Literal["striding", "dw_striding"] = "striding"
    """Full strided convolutions, or depthwise-separable ones."""
    subsampling_factor: Literal[2, 4, 8] = 4
    """Feature frames per frame of the recurrent layers."""
    subsampling_channels: int = 32
    """Channels of the convolutions."""
    dropout: float = 0.1
    """Dropout of the input of each recurrent layer and of the head."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What is computed in. Parameters, the recurrence's state, norms' statistics and logits are float32 always."""

    def __post_init__(self) -> None:
        if self.layers < 1 or self.width < 1:
            found = f"layers {self.layers}, width {self.width}"
            raise UserError(f"CRNNConfig: found {found}, expected at least 1 of each")


@dataclass(frozen=True)
class PlainConformerConfig:
    """Conformer layers at the features' frame rate, and a CTC head. The defaults are those of torchaudio's example."""

    num_features: int = 80
    """Feature bands a frame (mel bands, or cepstra)."""
    width: int = 80
    """Channels of the layers (torchaudio's input_dim); even."""
    layers: int = 4
    """Conformer layers."""
    heads: int = 4
    """Attention heads; must divide the width."""
    hidden: int = 128
    """Hidden channels of the feed-forward modules (torchaudio's ffn_dim)."""
    kernel_size: int = 31
    """Frames that the depthwise convolution sees; odd."""
    conv_norm: Literal["batch", "group"] = "batch"
    """Norm inside the convolution module; "group" is over all channels and frames of an utterance."""
    convolution_first: bool = False
    """The convolution module before the attention."""
    projection: bool = False
    """A linear map of the features to the width; without it there must be as many features as channels."""
    dropout: float = 0.1
    """Dropout everywhere in the layers."""
    remat: bool = False
    """Compute the layers' activations again in the backward pass: less memory, about a third more time."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What is computed in. Parameters, norms' statistics, softmax and logits are float32 always."""

    def __post_init__(self) -> None:
        for name in ("num_features", "layers", "heads", "hidden"):
            if getattr(self, name) < 1:
                raise UserError(f"PlainConformerConfig: found {name} {getattr(self, name)}, expected 1 or more")
        ConformerConfig(width=self.width, heads=self.heads, kernel_size=self.kernel_size)  # the shared checks


Activation = Literal["gelu", "gelu_new", "relu", "swish"]


@dataclass(frozen=True)
class Wav2Vec2Config:
    """A network over the waveform (`audio.features` = "waveform"). The defaults are wav2vec 2.0 base."""

    block: Literal["transformer", "conformer"] = "transformer"
    """What the layers are: wav2vec 2.0's, or Wav2Vec2-Conformer's."""
    width: int = 768
    """Channels of the layers."""
    layers: int = 12
    """Number of layers."""
    heads: int = 12
    """Attention heads; must divide the width."""
    hidden: int = 3072
    """Hidden channels of the feed-forward modules."""
    norm_first: bool = False
    """Transformer: norms before attention and feed-forward (the large models) instead of after."""
    conv_width: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    """Channels of each convolution over the waveform."""
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    """Frames that each of them sees."""
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    """Their strides; the product is the number of samples an output frame stands for."""
    conv_bias: bool = False
    """Whether they have biases."""
    conv_norm: Literal["group", "layer"] = "group"
    """A norm of each channel over the utterance after the first one alone, or of each frame after all."""
    conv_activation: Activation = "gelu"
    """The function after each of them, and after the convolution over positions."""
    activation: Activation = "gelu"
    """The function inside the feed-forward modules, and inside the Conformer's convolutions."""
    position_kernel: int = 128
    """Transformer: frames that the convolution sees which tells a frame its place."""
    position_groups: int = 16
    """Transformer: its groups; must divide the width."""
    positions: Literal["relative", "rotary", "none"] = "relative"
    """Conformer: what attention knows of distances."""
    rotary_base: float = 10000.0
    """Conformer: the base of the rotary positions' wave lengths."""
    kernel_size: int = 31
    """Conformer: frames that the depthwise convolution sees; odd."""
    eps: float = 1e-5
    """Added to the variances in the norms; those of the Conformer layers and the convolutions have 1e-5."""
    dropout: float = 0.1
    """Dropout of the first layer's input, and after feed-forward and the Transformer's attention."""
    dropout_hidden: float = 0.1
    """Dropout inside the feed-forward modules."""
    dropout_att: float = 0.1
    """Dropout of the attention weights, and after the Conformer's attention."""
    dropout_projection: float = 0.0
    """Dropout of the projected output of the convolutions."""
    dropout_conv: float = 0.1
    """Conformer: dropout after the convolution module."""
    dropout_final: float = 0.1
    """Dropout of the head's input."""
    layer_drop: float = 0.1
    """Chance that a layer is left out for an utterance in training (LayerDrop, Fan et al. 2020)."""
    mask_time: float = 0.05
    """In training, about this share of the latent frames is replaced by a learned vector: wav2vec 2.0's SpecAugment."""
    mask_time_span: int = 10
    """Length of each span of such frames."""
    mask_channels: float = 0.0
    """In training, about this share of the latent channels is set to zero."""
    mask_channels_span: int = 10
    """Length of each span of such channels."""
    remat: bool = False
    """Compute the layers' activations again in the backward pass: less memory, about a third more time."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What is computed in. Parameters, norms' statistics, softmax and logits are float32 always."""

    def __post_init__(self) -> None:
        convs = self.conv_width, self.conv_kernel, self.conv_stride
        conformer = self.block == "conformer"
        shares = ("dropout", "dropout_hidden", "dropout_att", "dropout_projection", "dropout_conv", "dropout_final",
                  "layer_drop", "mask_time", "mask_channels")  # fmt: skip
        for ok, text in (
            (self.width > 0 and self.heads > 0, f"width {self.width}, heads {self.heads}, expected at least 1 of each"),
            (self.width % max(self.heads, 1) == 0, f"width {self.width} with {self.heads} heads, expected a multiple"),
            (self.layers >= 1, f"layers {self.layers}, expected at least 1"),
            (self.hidden >= 1, f"hidden {self.hidden}, expected at least 1"),
            (0 < len(convs[0]) == len(convs[1]) == len(convs[2]), f"convolutions {convs}, expected as many of each"),
            (all(w > 0 for w in convs[0]), f"conv_width {convs[0]}, expected numbers above 0"),
            (
                all(0 < s <= k for k, s in zip(convs[1], convs[2], strict=False)),
                f"conv_kernel {convs[1]} with conv_stride {convs[2]}, expected 0 < stride <= kernel",
            ),
            (conformer or self.position_kernel > 0, f"position_kernel {self.position_kernel}, expected 1 or more"),
            (
                conformer or (self.position_groups > 0 and self.width % self.position_groups == 0),
                f"position_groups {self.position_groups}, expected a divisor of the width {self.width}",
            ),
            (not conformer or self.kernel_size % 2 == 1, f"kernel_size {self.kernel_size}, expected an odd number"),
            (
                not conformer or self.positions != "rotary" or (self.width // self.heads) % 2 == 0,
                f"{self.width} channels in {self.heads} heads, expected an even number in each for rotary positions",
            ),
            (not (conformer and self.norm_first), "norm_first with block conformer, expected it for transformer alone"),
            (min(self.mask_time_span, self.mask_channels_span) > 0, "a span of 0 to mask, expected 1 or more"),
            *((0 <= getattr(self, n) < 1, f"{n} {getattr(self, n)}, expected 0 <= p < 1") for n in shares),
        ):
            if not ok:
                raise UserError(f"Wav2Vec2Config: found {text}")


@dataclass(frozen=True)
class AttentionConfig:
    """How the decoder finds its place in the text."""

    kind: Literal["location", "dynamic", "gmm", "forward"] = "location"
    """location: Tacotron 2's; dynamic: convolutions made from the query, only forward; gmm: a mixture of Gaussians that
    move forward; forward: location-sensitive, but only on to the next symbol, at a learned pace."""
    width: int = 128
    """Channels in which energies are computed."""
    filters: int = 32
    """Location filters (location, forward), static filters (dynamic)."""
    filter_length: int = 31
    """Symbols that a filter sees; odd."""
    dynamic_filters: int = 8
    """dynamic: filters made from the query."""
    prior_length: int = 11
    """dynamic: symbols that a step may move forward at most, plus one."""
    prior_alpha: float = 0.1
    """dynamic: the beta-binomial prior's first parameter."""
    prior_beta: float = 0.9
    """dynamic: its second; the mean step is (prior_length - 1) · alpha / (alpha + beta)."""
    mixtures: int = 5
    """gmm: Gaussians."""


@dataclass(frozen=True)
class StyleConfig:
    """The reference encoder and its tokens."""

    tokens: int = 10
    """Learned styles, of which an utterance's is a mixture."""
    width: int = 256
    """Channels of the style."""
    heads: int = 4
    """Heads of the attention over the tokens."""
    channels: tuple[int, ...] = (32, 32, 64, 64, 128, 128)
    """Channels of the convolutions, each of which halves frames and bands."""
    summary: int = 128
    """Channels of the GRU."""


@dataclass(frozen=True)
class Tacotron2Config:
    """The network."""

    num_mels: int = 80
    """Bands of a frame."""
    embedding: int = 512
    """Channels of a symbol, and of the encoder's convolutions."""
    encoder_layers: int = 3
    """Convolutions of the encoder."""
    encoder_width: int = 512
    """Channels of the encoder's LSTM, both directions together."""
    kernel_size: int = 5
    """Symbols or frames that a convolution of the encoder or the post-net sees."""
    prenet: int = 256
    """Channels of the two layers that the frame before goes through."""
    attention_rnn: int = 1024
    """Channels of the LSTM that asks where to look."""
    decoder_rnn: int = 1024
    """Channels of the LSTM that makes the frames."""
    attention: AttentionConfig = AttentionConfig()
    """How it finds its place in the text."""
    postnet_layers: int = 5
    """Convolutions of the post-net."""
    postnet: int = 512
    """Channels of the post-net."""
    reduction: int = 1
    """Frames a decoder step can make."""
    conv_dropout: float = 0.5
    """Dropout of all convolutions, in training."""
    norm_statistics: Literal["batch", "fixed"] = new_field("batch")
    """What the batch norms take in training: the batch's mean and variance, or the running ones that a checkpoint has,
    which then stay as they are. Fixed is for fine-tuning with old recordings beside the new: running statistics follow
    the new ones alone, and would misjudge the old voice."""
    prenet_dropout: float = 0.5
    """Dropout of the prenet: always, in synthesis too. It is drawn from the utterance's key, so synthesis repeats."""
    held: Literal["zoneout", "dropout"] = "zoneout"
    """What the LSTMs' states go through: the paper's zoneout, or NVIDIA's dropout of h."""
    held_rate: float = 0.1
    """With this probability."""
    speakers: int = 0
    """Voices, each with a learned vector; 0 is a network of one voice."""
    speaker_width: int = 64
    """Channels of that vector."""
    style: StyleConfig | None = None
    """A reference encoder with style tokens; none has none."""

    def __post_init__(self) -> None:
        if self.encoder_width % 2 or self.kernel_size % 2 == 0 or self.attention.filter_length % 2 == 0:
            raise UserError(
                f"model: found encoder_width {self.encoder_width}, kernel_size {self.kernel_size}, attention."
                f"filter_length {self.attention.filter_length}, expected an even width and odd lengths"
            )
        if not 0 <= self.prenet_dropout < 1 or not 0 <= self.held_rate < 1 or self.reduction < 1:
            raise UserError(
                f"model: found prenet_dropout {self.prenet_dropout}, held_rate {self.held_rate}, reduction "
                f"{self.reduction}, expected rates in [0, 1) and at least one frame a step"
            )

    @property
    def memory(self) -> int:
        """Channels of what the attention reads."""
        return (
            self.encoder_width + (self.speaker_width if self.speakers else 0) + (self.style.width if self.style else 0)
        )


@dataclass(frozen=True)
class ConditionConfig:
    """The network between mel frames and the layers."""

    kind: Literal["frames", "stretch", "transposed_bands", "transposed"] = "frames"
    """Ours at frame rate; r9y9 master's stretch and smooth; r9y9's released transposed convolutions over time and
    bands; nv-wavenet's one transposed convolution."""
    width: int = 128
    """Channels of "frames"; the others keep the bands."""
    context: int = 2
    """Frames on each side that the first convolution of "frames" and "stretch" sees."""
    scales: tuple[int, ...] = (4, 4, 4, 4)
    """Factors of "stretch" and "transposed_bands"; their product is the hop length."""
    bands: int = 3
    """Bands that a transposed convolution of "transposed_bands" sees; an odd number."""
    window: int = 800
    """Samples that a frame reaches in "transposed"."""
    shift: float = 5.0
    """Added to the frames that come in, before `scale`: it centers ln-mel spectrograms. 0 for public networks."""
    scale: float = 0.4
    """Times this. 1 for public networks."""

    def __post_init__(self) -> None:
        if self.context < 0 or self.bands % 2 == 0 or min((self.width, self.window, *self.scales)) < 1:
            raise UserError(
                f"model.condition: found context {self.context}, bands {self.bands}, width {self.width}, window "
                f"{self.window}, scales {self.scales}, expected 0 or more, an odd number, and positive numbers"
            )


@dataclass(frozen=True)
class WaveNetConfig:
    """The network. Presets are functions of this file: `small`, `medium`, `base`, `wide`, `released`."""

    layers: int = 24
    """Dilated convolutions."""
    cycles: int = 4
    """How often the dilations 1, 2, 4, … begin again; it divides the layers."""
    kernel_size: int = 3
    """Samples that a convolution sees."""
    residual: int = 128
    """Channels between the layers."""
    gate: int = 256
    """Channels of a convolution's output: the first half goes through tanh, the second through sigmoid."""
    skip: int = 128
    """Channels that the layers add up for the output."""
    head: int = 128
    """Channels of the hidden layer after that."""
    output: Literal["gaussian", "logistics", "mulaw"] = "gaussian"
    """What is said of the next sample: a Gaussian, a mixture of discretised logistics, or probabilities of µ-law
    classes."""
    mixtures: int = 10
    """Logistics in a mixture."""
    classes: int = 256
    """µ-law classes."""
    levels: int = 65536
    """Levels between -1 and 1 whose probabilities the logistics give: those of 16 bits."""
    min_log_scale: float = -7.0
    """Least logarithm of a scale: no sample may become certain, or silence would outweigh all speech."""
    residual_scale: float = 0.5**0.5
    """Factor on the sum that goes to the next layer."""
    skip_scale: float = 0.0
    """Factor on the sum of the skips; 0 is layers ** -0.5."""
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    """The network between mel frames and the layers."""
    num_mels: int = 80
    """Bands of a frame; filled in from the audio settings."""
    hop: int = 256
    """Samples of a frame; filled in from the audio settings."""
    speakers: int = 0
    """Voices, each with a learned vector; 0 is a network of one voice."""
    speaker_width: int = 64
    """Channels of that vector."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the stack computes in, in training; outputs and likelihoods are float32."""

    def __post_init__(self) -> None:
        if self.cycles < 1 or self.layers < 1 or self.layers % self.cycles or self.kernel_size < 2 or self.gate % 2:
            raise UserError(
                f"model: found layers {self.layers}, cycles {self.cycles}, kernel_size {self.kernel_size}, gate "
                f"{self.gate}, expected layers in whole cycles, a kernel of 2 or more and an even gate"
            )

    @property
    def dilations(self) -> tuple[int, ...]:
        """Of each layer."""
        cycle = self.layers // self.cycles
        return tuple(2 ** (layer % cycle) for layer in range(self.layers))

    @property
    def receptive_field(self) -> int:
        """Samples before an output on which it depends."""
        return (self.kernel_size - 1) * sum(self.dilations) + 1

    @property
    def outputs(self) -> int:
        """Outputs for each sample."""
        return {"gaussian": 2, "logistics": 3 * self.mixtures, "mulaw": self.classes}[self.output]

    @property
    def inputs(self) -> int:
        """Channels of the sample before: itself, or the one-hot of its class."""
        return self.classes if self.output == "mulaw" else 1

    @property
    def skip_factor(self) -> float:
        """`skip_scale`, with its default filled in."""
        return self.skip_scale or self.layers**-0.5

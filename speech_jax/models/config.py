"""Settings of the networks, in a module of their own so that reading a config or printing `--help` loads no Flax."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from speech_jax.core.claims import not_used_by
from speech_jax.core.command_line import Range
from speech_jax.core.config_dict import new_field
from speech_jax.core.errors import UserError


@dataclass(frozen=True)
class ConformerConfig:
    """Conformer encoder with a CTC head. The defaults are NeMo's Conformer-CTC small.

    Example:
        >>> from speech_jax.models.config import ConformerConfig
        >>> from speech_jax.models.conformer import output_length
        >>> config = ConformerConfig(width=256, layers=18)
        >>> config.heads, output_length(1000, config)
        (4, 250)
    """

    num_features: int = 80
    """Features per frame (mel bands, or cepstra)."""
    width: Annotated[int, Range(1, 10**6)] = 176
    """Channels of the encoder (d_model); even."""
    layers: Annotated[int, Range(1, 10**4)] = 16
    """Conformer layers."""
    heads: Annotated[int, Range(1, 10**4)] = 4
    """Attention heads; must divide the width."""
    feed_forward_multiple: Annotated[int, Range(1, 1000)] = 4
    """Hidden channels of the feed-forward modules, as a multiple of the width."""
    kernel_size: int = 31
    """Kernel size of the depthwise convolution, in encoder frames; odd."""
    subsampling: Literal["striding", "dw_striding"] = "striding"
    """Full strided convolutions, or depthwise-separable ones (FastConformer; cheaper)."""
    subsampling_factor: Literal[4, 8] = 4
    """Feature frames per encoder frame."""
    subsampling_channels: Annotated[int, Range(0, 10**6)] = 0
    """Channels of the subsampling convolutions; 0 for the width."""
    conv_norm: Literal["batch", "layer", "group"] = "batch"
    """Norm inside the convolution module; batch statistics are over valid frames only."""
    conv_norm_groups: int = 16
    """Groups of the group norm; must divide the width."""
    use_bias: bool = True
    """Biases in the linear layers and convolutions of the Conformer layers."""
    xscaling: bool = True
    """Multiply the subsampled vectors by sqrt(width)."""
    dropout: Annotated[float, Range(0, 0.999)] = 0.1
    """Dropout in and after the feed-forward, attention and convolution modules."""
    dropout_pre_encoder: Annotated[float, Range(0, 0.999)] = 0.1
    """Dropout of the subsampled vectors."""
    dropout_emb: Annotated[float, Range(0, 0.999)] = 0.0
    """Dropout of the position sinusoids."""
    dropout_att: Annotated[float, Range(0, 0.999)] = 0.1
    """Dropout of the attention weights."""
    stochastic_depth: float = 0.0
    """Probability of skipping the last layer per utterance in training; it rises linearly from 0 at the first layer."""
    remat: bool = False
    """Recompute the layers' activations in the backward pass: less memory, about a third more time."""
    remat_keeps: Literal["nothing", "products"] = new_field("nothing")
    """With remat, the activations of a layer that are saved: nothing, or the outputs of its matrix products and its
    attention. Norms, activation functions and dropout are still recomputed: little arithmetic, much less traffic."""
    scan_layers: bool = False
    """Run the layers as one loop: compiles in the time of one layer, but a step on a CPU takes a quarter longer."""
    attention_block: int = new_field(0)
    """Queries per block of attention; 0 for all at once. In blocks, memory grows with the length of a recording, not
    with its square, and attention takes about a third more time."""
    attention_fused: bool = new_field(False)
    """On a TPU, compute attention in a Pallas kernel; scores never leave the chip. Elsewhere, and for recordings too
    long for it (about 1,900 encoder frames), in blocks of attention_block, or of 128 if that is 0."""
    attention_fused_gpu: bool = new_field(False)
    """On an NVIDIA GPU, compute attention in Pallas kernels, for recordings of any length and heads of at most 128
    channels (64 in float32); no effect elsewhere. They have been run by an interpreter and compiled for an H100, but
    never run on a GPU: compare the losses of some steps before you rely on them."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation. Parameters, statistics of norms, softmax and logits are always float32."""

    def __post_init__(self) -> None:
        for ok, text in (
            (
                self.heads >= 1 and self.width % self.heads == 0,
                f"width {self.width} with {self.heads} heads, expected a multiple of heads",
            ),
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

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        idle = {} if self.conv_norm == "group" else {"conv_norm_groups": "with {conv_norm}"}
        if not self.remat:
            idle["remat_keeps"] = "with {remat}"
        return idle | ({"stochastic_depth": "with {layers}"} if self.layers == 1 else {})  # it is 0 at the first layer


@dataclass(frozen=True)
class CRNNConfig:
    """Convolutions, bidirectional recurrent layers and a CTC head."""

    num_features: int = 80
    """Features per frame (mel bands, or cepstra)."""
    cell: Literal["lstm", "gru"] = "lstm"
    """Recurrent cell; its arithmetic is torch's."""
    layers: Annotated[int, Range(1, 10**4)] = 4
    """Bidirectional recurrent layers."""
    width: Annotated[int, Range(1, 10**6)] = 320
    """Channels of each direction."""
    subsampling: Literal["striding", "dw_striding"] = "striding"
    """Full strided convolutions, or depthwise-separable ones."""
    subsampling_factor: Literal[2, 4, 8] = 4
    """Feature frames per frame of the recurrent layers."""
    subsampling_channels: Annotated[int, Range(1, 10**6)] = 32
    """Channels of the convolutions."""
    dropout: Annotated[float, Range(0, 0.999)] = 0.1
    """Dropout of the input of each recurrent layer and of the head."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation. Parameters, the recurrent state, statistics of norms and logits are always float32."""

    def __post_init__(self) -> None:
        if self.layers < 1 or self.width < 1:
            raise UserError(f"CRNNConfig: found layers {self.layers}, width {self.width}, expected at least 1 of each")


@dataclass(frozen=True)
class PlainConformerConfig:
    """Conformer layers at the features' frame rate and a CTC head. The defaults are those of torchaudio's example."""

    num_features: int = 80
    """Features per frame (mel bands, or cepstra)."""
    width: Annotated[int, Range(1, 10**6)] = 80
    """Channels of the layers (torchaudio's input_dim); even."""
    layers: Annotated[int, Range(1, 10**4)] = 4
    """Conformer layers."""
    heads: Annotated[int, Range(1, 10**4)] = 4
    """Attention heads; must divide the width."""
    hidden: Annotated[int, Range(1, 10**6)] = 128
    """Hidden channels of the feed-forward modules (torchaudio's ffn_dim)."""
    kernel_size: int = 31
    """Kernel size of the depthwise convolution, in frames; odd."""
    conv_norm: Literal["batch", "group"] = "batch"
    """Norm inside the convolution module; "group" is over all channels and valid frames of an utterance."""
    convolution_first: bool = False
    """Put the convolution module before attention."""
    projection: bool = False
    """Project the features to the width by a linear layer; without it num_features must equal the width."""
    dropout: Annotated[float, Range(0, 0.999)] = 0.1
    """Dropout everywhere in the layers."""
    remat: bool = False
    """Recompute the layers' activations in the backward pass: less memory, about a third more time."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation. Parameters, statistics of norms, softmax and logits are always float32."""

    def __post_init__(self) -> None:
        for name in ("num_features", "layers", "heads", "hidden"):
            if getattr(self, name) < 1:
                raise UserError(f"PlainConformerConfig: found {name} {getattr(self, name)}, expected 1 or more")
        ConformerConfig(width=self.width, heads=self.heads, kernel_size=self.kernel_size)  # the shared checks


Activation = Literal["gelu", "gelu_new", "relu", "swish"]


@dataclass(frozen=True)
class Wav2Vec2Config:
    """Network over the waveform (`audio.features` = "waveform"). The defaults are wav2vec 2.0 base."""

    block: Literal["transformer", "conformer"] = "transformer"
    """Layers: wav2vec 2.0's Transformer, or Wav2Vec2-Conformer's."""
    width: Annotated[int, Range(1, 10**6)] = 768
    """Channels of the layers."""
    layers: Annotated[int, Range(1, 10**4)] = 12
    """Number of layers."""
    heads: Annotated[int, Range(1, 10**4)] = 12
    """Attention heads; must divide the width."""
    hidden: Annotated[int, Range(1, 10**6)] = 3072
    """Hidden channels of the feed-forward modules."""
    norm_first: bool = False
    """Transformer: norms before attention and feed-forward (the large models) instead of after."""
    conv_width: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    """Channels of each convolution over the waveform."""
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    """Kernel size of each convolution over the waveform."""
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    """Stride of each convolution over the waveform; the product is the number of samples per output frame."""
    conv_bias: bool = False
    """Biases in the convolutions over the waveform."""
    conv_norm: Literal["group", "layer"] = "group"
    """Norms of the convolutions over the waveform: "group" normalizes each channel over the utterance after the first
    convolution only; "layer" normalizes each frame after every convolution."""
    conv_activation: Activation = "gelu"
    """Activation after the convolutions over the waveform and after the convolution of positions."""
    activation: Activation = "gelu"
    """Activation inside the feed-forward modules and the Conformer's convolution modules."""
    position_kernel: int = 128
    """Transformer: kernel size of the convolution that encodes positions, in frames."""
    position_groups: int = 16
    """Transformer: groups of that convolution; must divide the width."""
    positions: Literal["relative", "rotary", "none"] = "relative"
    """Conformer: positions in attention."""
    rotary_base: float = 10000.0
    """Conformer: base of the wave lengths of rotary positions."""
    kernel_size: int = 31
    """Conformer: kernel size of the depthwise convolution, in frames; odd."""
    eps: float = 1e-5
    """Added to variances in the norms, except those of Conformer layers and convolutions, which have 1e-5."""
    dropout: Annotated[float, Range(0, 0.999)] = 0.1
    """Dropout of the first layer's input, after the feed-forward modules and after the Transformer's attention."""
    dropout_hidden: Annotated[float, Range(0, 0.999)] = 0.1
    """Dropout inside the feed-forward modules."""
    dropout_att: Annotated[float, Range(0, 0.999)] = 0.1
    """Dropout of the attention weights, and after the Conformer's attention."""
    dropout_projection: Annotated[float, Range(0, 0.999)] = 0.0
    """Dropout of the projected output of the convolutions."""
    dropout_conv: Annotated[float, Range(0, 0.999)] = 0.1
    """Conformer: dropout after the convolution module."""
    dropout_final: Annotated[float, Range(0, 0.999)] = 0.1
    """Dropout of the head's input."""
    layer_drop: Annotated[float, Range(0, 0.999)] = 0.1
    """Probability of skipping a layer per utterance in training (LayerDrop, Fan et al. 2020)."""
    mask_time: float = 0.05
    """Approximate share of latent frames that a learned vector replaces in training (wav2vec 2.0's SpecAugment)."""
    mask_time_span: int = 10
    """Length of a span of such frames."""
    mask_channels: float = 0.0
    """Approximate share of latent channels that are set to zero in training."""
    mask_channels_span: int = 10
    """Length of a span of such channels."""
    remat: bool = False
    """Recompute the layers' activations in the backward pass: less memory, about a third more time."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation. Parameters, statistics of norms, softmax and logits are always float32."""

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
            (not (conformer and self.norm_first), "norm_first with block conformer, expected it only for transformer"),
            (
                min(self.mask_time_span, self.mask_channels_span) > 0,
                f"mask spans {self.mask_time_span} and {self.mask_channels_span}, expected at least 1",
            ),
            *((0 <= getattr(self, n) < 1, f"{n} {getattr(self, n)}, expected 0 <= p < 1") for n in shares),
        ):
            if not ok:
                raise UserError(f"Wav2Vec2Config: found {text}")

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        uses: dict[str, str] = dict.fromkeys(("position_kernel", "position_groups"), "transformer")
        uses |= dict.fromkeys(("positions", "rotary_base", "kernel_size", "dropout_conv"), "conformer")
        idle = not_used_by("block", self.block, uses)
        if self.positions != "rotary":
            idle |= {"rotary_base": "with {positions}"}
        if not self.mask_time:
            idle |= {"mask_time_span": "with {mask_time}"}
        return idle if self.mask_channels else idle | {"mask_channels_span": "with {mask_channels}"}


@dataclass(frozen=True)
class WhisperConfig:
    """Whisper: Transformer encoder over log-mel features, decoder over tokens. The defaults are those of tiny.

    Example:
        >>> from speech_jax.models.config import WhisperConfig
        >>> large_v3 = WhisperConfig(
        ...     num_features=128, width=1280, heads=20, encoder_layers=32, decoder_layers=32, hidden=5120
        ... )
        >>> large_v3.width // large_v3.heads
        64
    """

    num_features: Annotated[int, Range(1, 10**4)] = 80
    """Mel bands per frame; 128 in large-v3 and turbo."""
    width: Annotated[int, Range(4, 10**6)] = 384
    """Channels of encoder and decoder (d_model); even."""
    heads: Annotated[int, Range(1, 10**4)] = 6
    """Attention heads; must divide the width."""
    encoder_layers: Annotated[int, Range(1, 10**4)] = 4
    """Layers of the encoder."""
    decoder_layers: Annotated[int, Range(1, 10**4)] = 4
    """Layers of the decoder; fewer in distilled models."""
    hidden: Annotated[int, Range(1, 10**7)] = 1536
    """Channels between the two linear layers of a feed-forward module."""
    audio_positions: Annotated[int, Range(1, 10**6)] = 1500
    """Encoder frames (20 ms each) that a recording may have at most."""
    text_positions: Annotated[int, Range(1, 10**6)] = 448
    """Tokens that the decoder can read, the prefix included."""
    dropout: Annotated[float, Range(0, 0.999)] = 0.0
    """Dropout of the output of each module and of the embedded tokens and frames, in training."""
    dropout_att: Annotated[float, Range(0, 0.999)] = 0.0
    """Dropout of the attention weights."""
    dropout_hidden: Annotated[float, Range(0, 0.999)] = 0.0
    """Dropout between the linear layers of a feed-forward module."""
    remat: bool = False
    """Recompute the layers' activations in the backward pass: less memory, about a third more time."""
    scan_layers: bool = False
    """Run the layers as one loop, which compiles in the time of one layer."""
    attention_block: Annotated[int, Range(0, 10**6)] = 0
    """Frames per block of the encoder's attention; 0 for all at once. In blocks, memory grows with the length."""
    attention_fused: bool = False
    """On a TPU, compute the encoder's attention in a Pallas kernel; elsewhere in blocks."""
    attention_fused_gpu: bool = False
    """On an NVIDIA GPU, compute the encoder's attention in Pallas kernels, which were never run on a GPU."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation. Parameters, norms, softmax and logits are always float32."""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 2:
            raise UserError(
                f"WhisperConfig: found width {self.width} with {self.heads} heads, expected an even multiple of heads"
            )


@dataclass(frozen=True)
class AttentionConfig:
    """Attention of the decoder over the text."""

    kind: Literal["location", "dynamic", "gmm", "forward"] = "location"
    """location: location-sensitive, as in Tacotron 2. dynamic: filters computed from the query, moves only forward.
    gmm: a mixture of Gaussians that move only forward. forward: location-sensitive, moves by at most one symbol per
    step, at a learned speed."""
    width: Annotated[int, Range(1, 10**6)] = 128
    """Channels in which energies are computed."""
    filters: Annotated[int, Range(1, 10**4)] = 32
    """location, forward: location filters. dynamic: static filters."""
    filter_length: int = 31
    """Length of a filter, in symbols; odd."""
    dynamic_filters: Annotated[int, Range(1, 10**4)] = 8
    """dynamic: filters computed from the query."""
    prior_length: Annotated[int, Range(1, 10**4)] = 11
    """dynamic: most symbols that a step may move forward, plus one."""
    prior_alpha: Annotated[float, Range(1e-6, 1e6)] = 0.1
    """dynamic: first parameter of the beta-binomial prior."""
    prior_beta: Annotated[float, Range(1e-6, 1e6)] = 0.9
    """dynamic: second parameter of the prior; the mean step is (prior_length - 1) · alpha / (alpha + beta)."""
    mixtures: Annotated[int, Range(1, 10**4)] = 5
    """gmm: number of Gaussians."""

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        uses = {"mixtures": "gmm"} | dict.fromkeys(("filters", "filter_length"), "location forward dynamic")
        uses |= dict.fromkeys(("dynamic_filters", "prior_length", "prior_alpha", "prior_beta"), "dynamic")
        return not_used_by("kind", self.kind, uses)


@dataclass(frozen=True)
class StyleConfig:
    """Reference encoder and style tokens (Wang et al. 2018)."""

    tokens: Annotated[int, Range(1, 10**6)] = 10
    """Number of learned style tokens; the style of an utterance is a mixture of them."""
    width: Annotated[int, Range(1, 10**6)] = 256
    """Channels of the style vector."""
    heads: Annotated[int, Range(1, 10**4)] = 4
    """Heads of the attention over the tokens; must divide the width."""
    channels: tuple[int, ...] = (32, 32, 64, 64, 128, 128)
    """Channels of the convolutions, each of which halves frames and bands."""
    summary: Annotated[int, Range(1, 10**6)] = 128
    """Channels of the GRU that summarizes the reference."""


@dataclass(frozen=True)
class Tacotron2Config:
    """Tacotron 2 network. The defaults are the paper's sizes (Shen et al. 2018).

    Example:
        >>> from speech_jax.models.config import Tacotron2Config
        >>> config = Tacotron2Config(speakers=2, speaker_width=64, reduction=2)
        >>> config.memory  # encoder channels and a speaker's vector
        576
    """

    num_mels: int = 80
    """Mel bands per frame; set from the audio settings."""
    embedding: Annotated[int, Range(1, 10**6)] = 512
    """Channels of a symbol, and of the encoder's convolutions."""
    encoder_layers: Annotated[int, Range(1, 10**4)] = 3
    """Convolutions of the encoder."""
    encoder_width: Annotated[int, Range(1, 10**6)] = 512
    """Channels of the encoder's LSTM, both directions together; even."""
    kernel_size: int = 5
    """Kernel size of the convolutions of encoder and post-net, in symbols or frames; odd."""
    prenet: Annotated[int, Range(1, 10**6)] = 256
    """Channels of the two layers of the prenet, whose input is the previous frame."""
    attention_rnn: Annotated[int, Range(1, 10**6)] = 1024
    """Channels of the attention LSTM, whose output is the query."""
    decoder_rnn: Annotated[int, Range(1, 10**6)] = 1024
    """Channels of the decoder LSTM, from which frames are projected."""
    attention: AttentionConfig = AttentionConfig()
    """Attention over the text."""
    postnet_layers: Annotated[int, Range(1, 10**4)] = 5
    """Convolutions of the post-net."""
    postnet: Annotated[int, Range(1, 10**6)] = 512
    """Channels of the post-net."""
    reduction: int = 1
    """Reduction factor: most frames per decoder step."""
    conv_dropout: Annotated[float, Range(0, 0.999)] = 0.5
    """Dropout of all convolutions, in training."""
    norm_statistics: Literal["batch", "fixed"] = new_field("batch")
    """Statistics of batch norms in training: the batch's, or the running ones of the start checkpoint, which then do
    not change. Use fixed to fine-tune on new recordings mixed with old ones: running statistics would follow only the
    new ones, and be wrong for the old voice."""
    prenet_dropout: float = 0.5
    """Dropout of the prenet, in training and synthesis. It is drawn from the utterance's key, so synthesis repeats."""
    held: Literal["zoneout", "dropout"] = "zoneout"
    """Regularization of LSTM states: the paper's zoneout, or dropout of h as in NVIDIA's code."""
    held_rate: float = 0.1
    """Probability of zoneout or dropout of LSTM states; 0 for none."""
    speakers: int = 0
    """Number of voices, each with a learned vector; 0 for a network of one voice; set from `task.speakers`."""
    speaker_width: int = 64
    """Channels of a speaker's vector."""
    style: StyleConfig | None = None
    """Reference encoder with style tokens; None for no style."""

    def __post_init__(self) -> None:
        if self.encoder_width % 2 or self.kernel_size % 2 == 0 or self.attention.filter_length % 2 == 0:
            raise UserError(
                f"task.model: found encoder_width {self.encoder_width}, kernel_size {self.kernel_size}, attention."
                f"filter_length {self.attention.filter_length}, expected an even width and odd lengths"
            )
        if not 0 <= self.prenet_dropout < 1 or not 0 <= self.held_rate < 1 or self.reduction < 1:
            raise UserError(
                f"task.model: found prenet_dropout {self.prenet_dropout}, held_rate {self.held_rate}, reduction "
                f"{self.reduction}, expected rates in [0, 1) and at least one frame per step"
            )

    @property
    def memory(self) -> int:
        """Channels of the memory that the attention reads: encoder, speaker and style."""
        return (
            self.encoder_width + (self.speaker_width if self.speakers else 0) + (self.style.width if self.style else 0)
        )

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        return {} if self.held_rate else {"held": "with {held_rate}"}


@dataclass(frozen=True)
class ConditionConfig:
    """Network between mel frames and the layers of a WaveNet."""

    kind: Literal["frames", "stretch", "transposed_bands", "transposed"] = "frames"
    """frames: this package's, at frame rate. stretch: repeat and smooth, as in r9y9's master. transposed_bands:
    transposed convolutions over time and bands, as in r9y9's released model. transposed: one transposed convolution, as
    in nv-wavenet."""
    width: Annotated[int, Range(1, 10**6)] = 128
    """frames: channels; the other kinds keep the mel bands."""
    context: int = 2
    """frames, stretch: frames on each side that the first convolution covers."""
    scales: tuple[int, ...] = (4, 4, 4, 4)
    """stretch, transposed_bands: upsampling factors; their product is the hop length."""
    bands: int = 3
    """transposed_bands: kernel size over the bands; odd."""
    window: int = 800
    """transposed: kernel size, in samples; at least the hop length."""
    shift: float = 5.0
    """Added to the mel frames before scaling; 5 centers ln-mel spectrograms. 0 for public networks."""
    scale: float = 0.4
    """Factor on the shifted mel frames. 1 for public networks."""

    def __post_init__(self) -> None:
        if self.context < 0 or self.bands % 2 == 0 or min((self.width, self.window, *self.scales)) < 1:
            raise UserError(
                f"task.model.condition: found context {self.context}, bands {self.bands}, width {self.width}, window "
                f"{self.window}, scales {self.scales}, expected 0 or more, an odd number, and positive numbers"
            )

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        uses = {"width": "frames", "context": "frames stretch", "scales": "stretch transposed_bands"}
        return not_used_by("kind", self.kind, uses | {"bands": "transposed_bands", "window": "transposed"})


def check_hop(config: ConditionConfig, hop: int) -> None:
    """Check that the network gives `hop` vectors per frame.

    Raises:
        UserError: it does not.
    """
    product = math.prod(config.scales)
    if config.kind in ("stretch", "transposed_bands") and product != hop:
        raise UserError(
            f"task.model.condition.scales: found {config.scales}, {product} samples per frame, expected {hop}"
        )
    if config.kind == "transposed" and config.window < hop:
        raise UserError(f"task.model.condition.window: found {config.window}, expected at least the hop length, {hop}")


@dataclass(frozen=True)
class WaveNetConfig:
    """WaveNet vocoder. Presets are functions of models/wavenet.py: `small`, `medium`, `base`, `wide`, `released`.

    Example:
        >>> from speech_jax.models.config import WaveNetConfig
        >>> config = WaveNetConfig(layers=6, cycles=2)
        >>> config.dilations, config.receptive_field
        ((1, 2, 4, 1, 2, 4), 29)
    """

    layers: Annotated[int, Range(1, 10**4)] = 24
    """Number of dilated convolutions."""
    cycles: int = 4
    """Number of times that the dilations 1, 2, 4, … start again; must divide the layers."""
    kernel_size: int = 3
    """Taps of a convolution."""
    residual: Annotated[int, Range(1, 10**6)] = 128
    """Channels between the layers."""
    gate: Annotated[int, Range(1, 10**6)] = 256
    """Channels of a convolution's output; tanh is applied to the first half, sigmoid to the second. Even."""
    skip: Annotated[int, Range(1, 10**6)] = 128
    """Channels of the sum of the layers' skips."""
    head: Annotated[int, Range(1, 10**6)] = 128
    """Channels of the hidden layer after the skips."""
    output: Literal["gaussian", "logistics", "mulaw"] = "gaussian"
    """Distribution of a sample: a Gaussian, a mixture of discretized logistics, or µ-law classes."""
    mixtures: Annotated[int, Range(1, 10**4)] = 10
    """logistics: logistics in the mixture."""
    classes: Annotated[int, Range(2, 10**6)] = 256
    """mulaw: number of classes."""
    levels: int = 65536
    """logistics: levels in [-1, 1]; 65536 are those of 16 bits."""
    min_log_scale: float = -7.0
    """gaussian, logistics: lower bound of log scales; without it silence would dominate the likelihood."""
    residual_scale: Annotated[float, Range(1e-6, 1e6)] = 0.5**0.5
    """Factor on the residual sum after each layer."""
    skip_scale: float = 0.0
    """Factor on the sum of the skips; 0 for layers ** -0.5."""
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    """Network between mel frames and the layers."""
    num_mels: int = 80
    """Mel bands per frame; set from the audio settings."""
    hop: int = 256
    """Samples per mel frame; set from the audio settings."""
    speakers: int = 0
    """Number of voices, each with a learned vector; 0 for a network of one voice; set from `task.speakers`."""
    speaker_width: int = 64
    """Channels of a speaker's vector."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the stack in training; outputs and likelihoods are float32."""

    def __post_init__(self) -> None:
        if not 1 <= self.layers <= 1024:
            raise UserError(f"task.model.layers: found {self.layers}, expected 1 to 1024")
        if self.cycles < 1 or self.layers % self.cycles or self.kernel_size < 2 or self.gate % 2:
            raise UserError(
                f"task.model: found layers {self.layers}, cycles {self.cycles}, kernel_size {self.kernel_size}, gate "
                f"{self.gate}, expected layers in whole cycles, a kernel of 2 or more and an even gate"
            )

    @property
    def dilations(self) -> tuple[int, ...]:
        """Dilation of each layer."""
        cycle = self.layers // self.cycles
        return tuple(2 ** (layer % cycle) for layer in range(self.layers))

    @property
    def receptive_field(self) -> int:
        """Number of earlier samples on which an output depends."""
        return (self.kernel_size - 1) * sum(self.dilations) + 1

    @property
    def outputs(self) -> int:
        """Outputs per sample."""
        return {"gaussian": 2, "logistics": 3 * self.mixtures, "mulaw": self.classes}[self.output]

    @property
    def inputs(self) -> int:
        """Channels of the input: 1, or for "mulaw" the classes of its one-hot."""
        return self.classes if self.output == "mulaw" else 1

    @property
    def skip_factor(self) -> float:
        """Factor on the sum of the skips, with the default of `skip_scale` applied."""
        return self.skip_scale or self.layers**-0.5

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        uses = {"mixtures": "logistics", "levels": "logistics", "classes": "mulaw"}
        return not_used_by("output", self.output, uses | {"min_log_scale": "gaussian logistics"})

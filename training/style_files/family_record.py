"""The record of a model family, without torch: what its parts, layers and metadata are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# Target -> endings of module names, in every UNet with cross-attention and in CLIP's text encoders
UNET_GROUPS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "feed_forward": ("ff.net.0.proj", "ff.net.2"),
    "projections": ("proj_in", "proj_out"),
    "convolutions": (
        "conv1",
        "conv2",
        "conv_shortcut",
        "downsamplers.0.conv",
        "upsamplers.0.conv",
    ),
}
CLIP_GROUPS = {
    "attention": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "feed_forward": ("fc1", "fc2"),
}


def _spelt(module: str) -> str:
    return f"transformer.{module}"


def _nowhere(module: str) -> tuple[str, int] | None:
    return None


@dataclass(frozen=True, kw_only=True)
class FamilySpec:
    """The names of one family.

    Widths are of text states or embeddings, 0 for those that do not tell it.
    """

    name: str
    title: str
    short_title: str  # as a style's family is shown
    style_phrase: str  # as a message names one of its styles
    pipeline: str  # class name in diffusers
    pipelines: tuple[str, ...] = ()  # classes in model_index.json that are this family and no other
    denoiser: Literal["unet", "transformer"] = "unet"
    text_encoders: tuple[str, ...]
    classes: Mapping[str, str]  # part -> class name in diffusers or transformers, of every network
    tokenizers: tuple[str, ...]  # one a text encoder, in their order
    # target -> endings of module names in the denoiser, * for a block's number
    groups: Mapping[str, tuple[str, ...]]
    text_groups: Mapping[str, tuple[str, ...]]  # none: its text encoders are not trained
    # Of transformers, which are trained on flows
    # Where they are not CLIP's
    tokenizer_classes: Mapping[str, str] = field(default_factory=dict)
    chats: bool = False  # whether captions are put into the tokenizer's chat template
    tokens: int = 0  # of a caption that are read, where its tokenizers do not say
    in_channels: int = 0  # of the transformer of its text-to-image models; others are relatives
    side: int = 0  # px, of the square it was made for, where its VAE does not say
    grid: int = 0  # px of a token's side: sides of pictures are multiples of it

    # Keys of style files
    prefixes: Mapping[str, str]  # part -> how kohya names begin
    block_names: Literal["diffusers", "sgm"] = "diffusers"  # of the denoiser, as written
    reads_sgm: bool = False  # whether sgm's block names are read as well
    pointwise: tuple[str, ...] = ()  # last names of its 1x1 convolutions
    resnets: int = 2  # of a level on the way down, at most
    openclip: str = ""  # the text encoder that other programs take from OpenCLIP

    # Keys of style files of transformers
    spelt: Callable[[str], str] = _spelt  # live module -> its name in a style file
    # Live module -> the matrix of the authors' own code that holds its rows, and their place there
    elsewhere: Callable[[str], tuple[str, int] | None] = _nowhere
    also_read: tuple[str, ...] = ()  # modules that other programs train, beside those of groups
    shares: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # such a matrix's last name
    # -> how its rows are shared out, where not evenly

    # Metadata
    architecture: str  # modelspec.architecture, without /lora
    architecture_v: str = ""  # of bases with v-prediction, where it differs
    version: str  # ss_base_model_version
    version_v: str = ""
    claims: tuple[str, ...]  # beginnings of either that name this family
    implementation: str = "diffusers"
    is_v2: bool = False  # ss_v2
    webui_version: str = "Unknown"  # "sd version" of A1111

    # What shows the family of weights
    text_width: int = 0  # that cross-attention reads
    vector_widths: tuple[int, ...] = ()  # of learnt words, where there is one text encoder
    only_here: str = ""  # pattern of layer names (in underscores) that no other family has

    # Checkpoints of one file: part -> (beginning of its names, the library that names the rest)
    checkpoint_encoders: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def adapted(self) -> tuple[str, ...]:
        """The parts that may have adapters, the denoiser first."""
        return (self.denoiser, *(self.text_encoders if self.text_groups else ()))


def transformer_spec(
    title: str,
    pipelines: tuple[str, ...],
    *,
    transformer: str,
    vae: str = "AutoencoderKL",
    text_encoders: Mapping[str, str],
    short_title: str = "",
    article: str = "a",
    **more: Any,
) -> FamilySpec:
    """The record of a flow-matching transformer: what all of them have alike, and the classes of
    its parts. pipelines: the one that draws from words first; text_encoders: part -> class;
    more: the rest of the record.
    """
    short = short_title or title
    return FamilySpec(
        title=title,
        short_title=short,
        style_phrase=f"{article} {short} style",
        pipeline=pipelines[0],
        pipelines=pipelines,
        denoiser="transformer",
        text_encoders=tuple(text_encoders),
        classes={"transformer": transformer, "vae": vae, **text_encoders},
        tokenizers=tuple(part.replace("text_encoder", "tokenizer") for part in text_encoders),
        side=1024,
        grid=16,
        text_groups={},
        prefixes={"transformer": "lora_unet_"},  # kohya's, for denoisers of every kind
        **more,
    )


def of_blocks(blocks: str, *modules: str) -> tuple[str, ...]:
    """The patterns of modules that every block has."""
    return tuple(f"{blocks}.*.{module}" for module in modules)

"""Tokenizer, text encoder and UNet, trained from nothing on captioned icons; and the finished base
as a diffusers folder.

The text encoder and the UNet learn together: v-prediction (Salimans and Ho 2022) with zero terminal
SNR (Lin et al. 2023).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import autoencoder
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from lessons import Lessons
from pace import Stage, mixed
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.modules.group_norm import use_fast_group_norm

LENGTH = 32  # tokens a caption
# pictures a stream and step; small ones: at this length of training updates count for more than
# their size
BATCH = 16
VOCABULARY = 3072  # tokens
WIDTH = 192  # of the text states
SHOWN = ["red apple", "rocket", "sunflower", "hamburger", "castle", "penguin", "crown", "cactus"]
BETAS = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
)


def new_tokenizer(captions: list[str], folder: Path) -> CLIPTokenizer:
    """A CLIP-style byte-pair tokenizer of our own captions, kept as vocab.json and merges.txt in
    folder.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    if not (folder / "merges.txt").exists():
        folder.mkdir(parents=True, exist_ok=True)
        bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
        bpe.normalizer = normalizers.Lowercase()
        pattern = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
        split = pre_tokenizers.Split(pattern, "removed", invert=True)
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            show_progress=False,
        )
        phrases = ["an icon, a drawing, a picture in the style of"] * 50
        bpe.train_from_iterator([*captions, *phrases], trainer)
        model = json.loads(bpe.to_str())["model"]
        vocabulary = model["vocab"]
        for token in [
            *sorted(alphabet),
            *(t + "</w>" for t in sorted(alphabet)),
            "<|startoftext|>",
            "<|endoftext|>",
        ]:
            vocabulary.setdefault(token, len(vocabulary))
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=LENGTH
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    special = dict(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    size = dict(
        hidden_size=WIDTH,
        projection_dim=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
    )
    return CLIPTextModel(
        CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=LENGTH, **size, **special)
    )


def new_unet(latent_channels: int) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(96, 128, 224),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )
    unet.set_attn_processor(
        AttnProcessor()
    )  # on maps this small plain attention beats the fused kernel's backward
    return unet


def captions_of(lessons: Lessons, tokenizer: CLIPTokenizer) -> tuple[Tensor, Tensor]:
    """Token ids [phrases, N, LENGTH] and the share of each phrase, [phrases]."""
    phrases = [lessons.phrases(i) for i in range(len(lessons.concepts))]

    def ids(texts):
        return tokenizer(
            texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        ).input_ids

    texts = torch.stack([ids([p[k][1] for p in phrases]) for k in range(len(phrases[0]))])
    return texts, torch.tensor([share for share, _ in phrases[0]])


def train(
    lessons: Lessons, work: Path, *, steps: int, device: str, start: Path | None = None
) -> None:
    """Train to `steps`, going on from work/painter's state; work/painter/model holds the averaged
    weights as a pipeline.

    start: a published base whose weights are the first ones, where there is no state; its moments
    are lost, its drawing is not.
    """
    torch.manual_seed(2)
    own = work / "autoencoder" / "model"
    vae = (
        AutoencoderKL.from_pretrained(
            own if own.exists() or not start else start / "vae", dtype=torch.float32
        )
        .to(device)
        .eval()
        .requires_grad_(False)
    )
    latents = autoencoder.encoded(
        vae, lessons.pictures
    )  # not mirrored: half as much to learn, and a concept looks one way
    captions = [text for i in range(len(lessons.concepts)) for _, text in lessons.phrases(i)]
    tokenizer = (
        CLIPTokenizer.from_pretrained(start / "tokenizer")
        if start
        else new_tokenizer(captions, work / "tokenizer")
    )
    text_encoder, unet = new_text_encoder(tokenizer), new_unet(latents.shape[1])
    if start:
        text_encoder.load_state_dict(
            CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32).state_dict()
        )
        unet.load_state_dict(
            UNet2DConditionModel.from_pretrained(start / "unet", dtype=torch.float32).state_dict()
        )
    text_encoder, unet = text_encoder.to(device), unet.to(device, memory_format=torch.channels_last)
    use_fast_group_norm(unet)
    trained = nn.ModuleList([unet, text_encoder])
    schedule: dict[str, float] = dict(lr=2e-4, decay=1.0) if start else dict(lr=8e-4)
    stage = Stage(trained.parameters(), work / "painter", steps=steps, average=600, **schedule)
    alphas = DDPMScheduler(**BETAS).alphas_cumprod
    texts, shares = captions_of(lessons, tokenizer)

    def loss_of(rng: torch.Generator) -> Tensor:
        rows = torch.randint(0, len(latents), (BATCH,), generator=rng)
        x0 = latents[rows]
        phrase = torch.multinomial(shares, BATCH, replacement=True, generator=rng)
        u = (torch.arange(BATCH) + torch.rand(BATCH, generator=rng)) / BATCH  # stratified
        t = (1000 * u.sqrt()).long().clamp(max=999)  # more of the high noise, where words decide
        noise = torch.randn(x0.shape, generator=rng)
        a = alphas[t].view(-1, 1, 1, 1)
        noisy = (a.sqrt() * x0 + (1 - a).sqrt() * noise).to(
            device, memory_format=torch.channels_last
        )
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=mixed(device)):
            states = text_encoder(texts[phrase, rows].to(device))[0]
            predicted = unet(noisy, t.to(device), states).sample
        return (
            (predicted.float() - (a.sqrt() * noise - (1 - a).sqrt() * x0).to(device))
            .square()
            .mean()
        )

    def keep() -> None:
        pipe = pipeline(vae, text_encoder, tokenizer, unet)
        pipe.save_pretrained(work / "painter" / "model")
        sheet(pipe, sorted(set(lessons.styles))).save(
            work / "painter" / f"after-{stage.step * stage.streams * BATCH}-pictures.png"
        )

    stage.run(loss_of, every=240, keep=keep)


def pipeline(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> StableDiffusionPipeline:
    scheduler = DDIMScheduler(
        **BETAS,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        timestep_spacing="trailing",
    )
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sheet(pipe: StableDiffusionPipeline, styles: list[str]) -> Image.Image:
    """SHOWN in every style, a row a style, all from the same noise."""
    rows = []
    for style in styles:
        noise = [torch.Generator().manual_seed(i) for i in range(len(SHOWN))]
        with torch.autocast(pipe.device.type, torch.bfloat16, enabled=mixed(pipe.device.type)):
            rows.append(
                pipe(
                    [f"{c}, {style} style" for c in SHOWN],
                    num_inference_steps=20,
                    guidance_scale=4.0,
                    generator=noise,
                ).images
            )
    side = rows[0][0].width
    canvas = Image.new("RGB", (side * len(SHOWN), side * len(rows)))
    for j, row in enumerate(rows):
        for i, picture in enumerate(row):
            canvas.paste(picture, (i * side, j * side))
    return canvas


def full_precision(config: Path) -> None:
    """Name float32 in a text encoder's config.json; the weights beside it stay in float16.

    Without a dtype argument transformers 5.23 loads in the config's dtype and diffusers 0.42 in
    float32, and a UNet in float32 cannot use a text encoder's states in float16.
    """
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"dtype": "float32"}, indent=2) + "\n")


def publish(model: Path, out: Path) -> None:
    """Write a pipeline's folder as a plain diffusers folder in float16 safetensors.

    Raises when it is over 40 MB.
    """
    pipe = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float16, safety_checker=None)
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(out / part, ignore_errors=True)
    pipe.save_pretrained(out, safe_serialization=True)
    for config in (
        out / "model_index.json",
        out / "unet" / "config.json",
        out / "vae" / "config.json",
    ):  # where it was built is nobody's business
        found = json.loads(config.read_text())
        found.pop("_name_or_path", None)
        config.write_text(json.dumps(found, indent=2) + "\n")
    full_precision(out / "text_encoder" / "config.json")
    files = [f for f in out.rglob("*") if "recipe" not in f.relative_to(out).parts]
    size = sum(f.stat().st_size for f in files if f.is_file())
    if size > 40e6:
        raise SystemExit(f"the base is {size / 1e6:.1f} MB, at most 40 MB were wanted")
    print(f"{out}: {size / 1e6:.1f} MB")

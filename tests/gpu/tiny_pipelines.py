"""Tiny pipelines of diffusers in hub format: the real classes, random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from tests.gpu.tiny_models import _tokenizer

WORDS = 77
_SHAPE = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2}


def save_flux(folder: Path, *, is_guided: bool) -> Path:
    """FLUX.1: `is_guided` as dev, which reads a guidance."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=3,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=is_guided,
    )
    pipe = FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=is_guided),
        text_encoder=_clip(CLIPTextModel),
        tokenizer=_words(),
        text_encoder_2=T5EncoderModel(_t5()),
        tokenizer_2=_words(),
        vae=_vae(latent_channels=4, shift_factor=0.06, scaling_factor=1.5),
    )
    return _saved(pipe, folder)


def save_qwen_image(folder: Path) -> Path:
    """Qwen-Image."""
    torch.manual_seed(0)
    tokenizer = _tokenizer(ends_texts=False)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_parameters": {
            "mrope_section": [1, 1, 2],
            "rope_type": "default",
            "rope_theta": 1e6,
        },
    }
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
    }
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, vocab_size=len(tokenizer))
    pipe = QwenImagePipeline(
        transformer=QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(8, 4, 4),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192
        ),
        vae=AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tokenizer,
    )
    return _saved(pipe, folder)


def save_sdxl(folder: Path) -> Path:
    """Stable Diffusion XL; its weights as the variant fp16, which is what is fetched."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=64,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=80,
        cross_attention_dim=64,
        norm_num_groups=8,
    )
    pipe = StableDiffusionXLPipeline(
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        ),
        vae=_vae(latent_channels=4, force_upcast=True),
        text_encoder=_clip(CLIPTextModel),
        tokenizer=_words(),
        text_encoder_2=_clip(CLIPTextModelWithProjection),
        tokenizer_2=_words(),
    )
    return _saved(pipe, folder, variant="fp16")


def save_classifier(folder: Path) -> Path:
    """A ViT with the labels of the safety classifier."""
    torch.manual_seed(0)
    labels = {0: "normal", 1: "nsfw"}
    config = ViTConfig(
        **_SHAPE,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        id2label=labels,
        label2id={label: index for index, label in labels.items()},
    )
    model = ViTForImageClassification(config)
    with torch.no_grad():
        model.classifier.weight.normal_(std=1.0)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_lora(pipe: Any, folder: Path, *, seed: int = 1, rank: int = 4) -> Path:
    """A LoRA for the pipeline's queries, keys and values, that is not small. The file's path."""
    torch.manual_seed(seed)
    denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=["to_q", "to_k", "to_v"],
        init_lora_weights=False,
    )
    denoiser.add_adapter(config, adapter_name="made")
    layers = get_peft_model_state_dict(denoiser, adapter_name="made")
    layers = {name: 4 * weights for name, weights in layers.items()}
    if hasattr(pipe, "unet"):
        pipe.save_lora_weights(folder, unet_lora_layers=convert_state_dict_to_diffusers(layers))
    else:
        pipe.save_lora_weights(folder, transformer_lora_layers=layers)
    denoiser.delete_adapters("made")
    return folder / "pytorch_lora_weights.safetensors"


def save_weights(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Any safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(path))
    return path


def _words() -> Any:
    tokenizer = _tokenizer(ends_texts=True)
    tokenizer.model_max_length = WORDS
    return tokenizer


def _clip(kind: Any) -> Any:
    tokenizer = _words()
    return kind(
        CLIPTextConfig(
            **_SHAPE,
            num_attention_heads=4,
            vocab_size=len(tokenizer),
            max_position_embeddings=WORDS,
            projection_dim=32,
            bos_token_id=0,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _t5() -> T5Config:
    return T5Config(
        vocab_size=len(_words()), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4
    )


def _vae(**options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        **options,
    )


def _saved(pipe: Any, folder: Path, **options: Any) -> Path:
    with torch.no_grad():
        # Fresh weights say almost nothing: large ones make prompts, steps and seeds tell.
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module) and part is not pipe.vae:
                for weights in part.parameters():
                    if weights.dim() > 1:
                        weights.mul_(2.0)
    pipe.save_pretrained(folder, **options)
    assert json.loads((folder / "model_index.json").read_text())
    return folder

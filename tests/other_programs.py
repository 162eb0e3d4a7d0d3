"""What other programs accept as the name of a layer and of its tensors, written down from their sources. Data; knows nothing of ours.

A1111      AUTOMATIC1111/stable-diffusion-webui, extensions-builtin/Lora/networks.py: convert_diffusers_name_to_compvis, load_network
ComfyUI    comfyanonymous/ComfyUI, comfy/lora.py: model_lora_keys_unet, model_lora_keys_clip; Forge has a copy of both
InvokeAI   invoke-ai/InvokeAI, model manager's LoRA probe and the SDXL and 1.x conversion of kohya keys
sd-scripts kohya-ss/sd-scripts, networks/lora.py: create_network_from_weights
"""

from __future__ import annotations

ATTENTION = r"transformer_blocks_\d+_(attn[12]_(to_[qkv]|to_out_0)|ff_net_(0_proj|2))"
RESNET = r"(conv1|conv2|conv_shortcut|time_emb_proj)"
SGM_RESNET = r"(in_layers_2|out_layers_3|skip_connection|emb_layers_1)"
CLIP = r"text_model_encoder_layers_\d+_(self_attn_(q|k|v|out)_proj|mlp_fc[12])"

# diffusers' block names, which all of them map for 1.x and 2.x
DIFFUSERS_BLOCKS = (
    rf"lora_unet_(down_blocks_\d_attentions_\d|up_blocks_\d_attentions_\d|mid_block_attentions_0)_(proj_in|proj_out|{ATTENTION})",
    rf"lora_unet_(down_blocks_\d_resnets_\d|up_blocks_\d_resnets_\d|mid_block_resnets_\d)_{RESNET}",
    r"lora_unet_(down_blocks_\d_downsamplers_0|up_blocks_\d_upsamplers_0)_conv",
    r"lora_unet_(conv_in|conv_out|time_embedding_linear_[12])",
)
# sgm's, which all of them take as they are for XL: the places that this model has
SGM_BLOCKS = (
    rf"lora_unet_(input_blocks_[4578]_1|middle_block_1|output_blocks_[0-5]_1)_(proj_in|proj_out|{ATTENTION})",
    rf"lora_unet_(input_blocks_[124578]_0|middle_block_[02]|output_blocks_[0-8]_0)_{SGM_RESNET}",
    r"lora_unet_(input_blocks_[36]_0_op|output_blocks_[25]_2_conv)",
    r"lora_unet_(input_blocks_0_0|out_2|time_embed_[02]|label_emb_0_[02])",
)
LAYERS = {
    "sd1": (*DIFFUSERS_BLOCKS, rf"lora_te_{CLIP}"),
    "sd2": (*DIFFUSERS_BLOCKS, rf"lora_te_{CLIP}"),
    "sdxl": (*SGM_BLOCKS, rf"lora_te[12]_{CLIP}"),
}
LEAVES = {"lora_down.weight", "lora_up.weight", "alpha"}  # the first dot of a key ends the layer's name
INVOKEAI_BEGINS = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")

"""A GPT-2 of Hugging Face as a model file of llama.cpp, every weight float32 as it was: for the
peer in the benchmark. It holds no tokenizer: prompts are token ids."""
import gguf

# Hugging Face's name in a block -> llama.cpp's; Conv1D's weights are (in, out), its (out, in).
NAMES = {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
         "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}


def write(path, model):
    """Writes a transformers.GPT2LMHeadModel to the file."""
    config, base = model.config, model.transformer
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_name("random-124m")
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")

    def add(name, tensor):
        writer.add_tensor(name, tensor.detach().contiguous().numpy())

    add("token_embd.weight", base.wte.weight)       # the output head too: the weights are tied
    add("position_embd.weight", base.wpe.weight)
    add("output_norm.weight", base.ln_f.weight)
    add("output_norm.bias", base.ln_f.bias)
    for i, block in enumerate(base.h):
        for theirs, name in NAMES.items():
            module = block.get_submodule(theirs)
            is_norm = theirs.startswith("ln_")
            add(f"blk.{i}.{name}.weight", module.weight if is_norm else module.weight.T)
            add(f"blk.{i}.{name}.bias", module.bias)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

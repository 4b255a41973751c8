"""The config.json of published checkpoints, and their numbers of parameters.

The fields and values are those of the models' pages, without long lists of labels.
"""

COMMON = {'bos_token_id': 1, 'eos_token_id': 2, 'hidden_act': 'silu', 'initializer_range': 0.02,
            'torch_dtype': 'bfloat16', 'transformers_version': '4.40.1', 'use_cache': True}
LLAMA = {**COMMON, 'architectures': ['LlamaForCausalLM'], 'model_type': 'llama',
         'rms_norm_eps': 1e-5, 'tie_word_embeddings': False}
QWEN = {**COMMON, 'attention_dropout': 0.0, 'bos_token_id': 151643, 'eos_token_id': 151645,
        'rms_norm_eps': 1e-6, 'rope_theta': 1000000.0, 'tie_word_embeddings': True,
        'use_sliding_window': False, 'vocab_size': 151936}
GPT2 = {
  'activation_function': 'gelu_new', 'architectures': ['GPT2LMHeadModel'], 'attn_pdrop': 0.1,
  'bos_token_id': 50256, 'embd_pdrop': 0.1, 'eos_token_id': 50256, 'initializer_range': 0.02,
  'layer_norm_epsilon': 1e-05, 'model_type': 'gpt2', 'n_ctx': 1024, 'n_embd': 768, 'n_head': 12,
  'n_layer': 12, 'n_positions': 1024, 'resid_pdrop': 0.1, 'summary_activation': None,
  'summary_first_dropout': 0.1, 'summary_proj_to_labels': True, 'summary_type': 'cls_index',
  'summary_use_proj': True, 'vocab_size': 50257,
  'task_specific_params': {'text-generation': {'do_sample': True, 'max_length': 50}},
}
REAL = {
  'gpt2': (GPT2, 124_439_808),
  'gpt2-xl': ({**GPT2, 'n_embd': 1600, 'n_head': 25, 'n_layer': 48, 'output_past': True},
              1_557_611_200),
  'distilgpt2': ({
    **GPT2, 'n_layer': 6, '_num_labels': 1, 'id2label': {'0': 'LABEL_0'},
    'label2id': {'LABEL_0': 0}}, 81_912_576),
  'DialoGPT-medium': ({
    **GPT2, 'n_embd': 1024, 'n_head': 16, 'n_layer': 24, 'architectures': ['GPT2LMHeadModel'],
    'task_specific_params': {'conversational': {'max_length': 1000}}}, 354_823_168),
  'Cerebras-GPT-111M': ({
    **GPT2, 'activation_function': 'gelu', 'attn_pdrop': 0.0, 'n_inner': 3072, 'n_layer': 10,
    'n_positions': 2048, 'reorder_and_upcast_attn': False, 'scale_attn_weights': True,
    'scale_attn_by_inverse_layer_idx': False, 'use_cache': True}, 111_050_496),
  'Llama 7B': ({
    **LLAMA, 'hidden_size': 4096, 'intermediate_size': 11008, 'max_sequence_length': 2048,
    'num_attention_heads': 32, 'num_hidden_layers': 32, 'pad_token_id': -1, 'rms_norm_eps': 1e-6,
    'torch_dtype': 'float16', 'vocab_size': 32000}, 6_738_415_616),
  'Llama 2 7B': ({
    **LLAMA, '_name_or_path': 'meta-llama/Llama-2-7b-hf', 'hidden_size': 4096,
    'intermediate_size': 11008, 'max_position_embeddings': 4096, 'num_attention_heads': 32,
    'num_hidden_layers': 32, 'num_key_value_heads': 32, 'pretraining_tp': 1, 'rope_scaling': None,
    'vocab_size': 32000}, 6_738_415_616),
  'Yarn-Llama-2-7b-64k': ({
    **LLAMA, 'auto_map': {'AutoModelForCausalLM': 'modeling_llama_together_yarn.LlamaForCausalLM'},
    'hidden_size': 4096, 'intermediate_size': 11008, 'max_position_embeddings': 65536,
    'num_attention_heads': 32, 'num_hidden_layers': 32, 'num_key_value_heads': 32,
    'pad_token_id': 0, 'pretraining_tp': 1, 'vocab_size': 32000, 'rope_scaling': {
      'factor': 16.0, 'finetuned': True, 'original_max_position_embeddings': 4096,
      'type': 'yarn'}}, 6_738_415_616),
  'Llama-3.2-1B-Instruct': ({
    **LLAMA, 'attention_bias': False, 'attention_dropout': 0.0, 'bos_token_id': 128000,
    'eos_token_id': [128001, 128008, 128009], 'head_dim': 64, 'hidden_size': 2048,
    'intermediate_size': 8192, 'max_position_embeddings': 131072, 'mlp_bias': False,
    'num_attention_heads': 32, 'num_hidden_layers': 16, 'num_key_value_heads': 8,
    'pretraining_tp': 1, 'rope_theta': 500000.0, 'tie_word_embeddings': True,
    'vocab_size': 128256, 'rope_scaling': {
      'factor': 32.0, 'high_freq_factor': 4.0, 'low_freq_factor': 1.0,
      'original_max_position_embeddings': 8192, 'rope_type': 'llama3'}}, 1_235_814_400),
  'TinyLlama-1.1B': ({
    **LLAMA, 'hidden_size': 2048, 'intermediate_size': 5632, 'max_position_embeddings': 2048,
    'num_attention_heads': 32, 'num_hidden_layers': 22, 'num_key_value_heads': 4,
    'attention_bias': False, 'pretraining_tp': 1, 'rope_scaling': None, 'rope_theta': 10000.0,
    'vocab_size': 32000}, 1_100_048_384),
  'SmolLM2-135M': ({
    **LLAMA, 'bos_token_id': 0, 'eos_token_id': 0, 'hidden_size': 576, 'intermediate_size': 1536,
    'is_llama_config': True, 'max_position_embeddings': 8192, 'num_attention_heads': 9,
    'num_hidden_layers': 30, 'num_key_value_heads': 3, 'pretraining_tp': 1,
    'rope_interleaved': False, 'rope_scaling': None, 'rope_theta': 100000,
    'tie_word_embeddings': True, 'vocab_size': 49152, 'transformers.js_config': {
      'kv_cache_dtype': {'q4f16': 'float16', 'fp16': 'float16'}}}, 134_515_008),
  'deepseek-coder-1.3b': ({
    **LLAMA, 'bos_token_id': 32013, 'eos_token_id': 32014, 'hidden_size': 2048,
    'intermediate_size': 5504, 'max_position_embeddings': 16384, 'num_attention_heads': 16,
    'num_hidden_layers': 24, 'num_key_value_heads': 16, 'pretraining_tp': 1, 'rms_norm_eps': 1e-6,
    'rope_scaling': {'factor': 4.0, 'type': 'linear'}, 'rope_theta': 100000,
    'vocab_size': 32256}, 1_346_471_936),
  'Mistral-7B-v0.1': ({
    **COMMON, 'model_type': 'mistral', 'hidden_size': 4096, 'intermediate_size': 14336,
    'max_position_embeddings': 32768, 'num_attention_heads': 32, 'num_hidden_layers': 32,
    'num_key_value_heads': 8, 'rms_norm_eps': 1e-5, 'rope_theta': 10000.0, 'sliding_window': 4096,
    'tie_word_embeddings': False, 'vocab_size': 32000}, 7_241_732_096),
  'Mistral-7B-v0.3': ({
    **COMMON, 'model_type': 'mistral', 'attention_dropout': 0.0, 'hidden_size': 4096,
    'intermediate_size': 14336, 'max_position_embeddings': 32768, 'num_attention_heads': 32,
    'num_hidden_layers': 32, 'num_key_value_heads': 8, 'rms_norm_eps': 1e-5,
    'rope_theta': 1000000.0, 'sliding_window': None, 'tie_word_embeddings': False,
    'vocab_size': 32768}, 7_248_023_552),
  'Qwen2.5-0.5B': ({
    **QWEN, 'model_type': 'qwen2', 'hidden_size': 896, 'intermediate_size': 4864,
    'max_position_embeddings': 32768, 'max_window_layers': 24, 'num_attention_heads': 14,
    'num_hidden_layers': 24, 'num_key_value_heads': 2, 'sliding_window': 32768,
    'use_mrope': False}, 494_032_768),
  'Qwen2.5-0.5B, YaRN as its page says': ({
    **QWEN, 'model_type': 'qwen2', 'hidden_size': 896, 'intermediate_size': 4864,
    'max_position_embeddings': 32768, 'max_window_layers': 24, 'num_attention_heads': 14,
    'num_hidden_layers': 24, 'num_key_value_heads': 2, 'sliding_window': 32768,
    'rope_scaling': {'factor': 4.0, 'original_max_position_embeddings': 32768, 'type': 'yarn'},
  }, 494_032_768),
  'Qwen3-0.6B': ({
    **QWEN, 'model_type': 'qwen3', 'attention_bias': False, 'head_dim': 128, 'hidden_size': 1024,
    'intermediate_size': 3072, 'max_position_embeddings': 40960, 'max_window_layers': 28,
    'num_attention_heads': 16, 'num_hidden_layers': 28, 'num_key_value_heads': 8,
    'rope_scaling': None, 'sliding_window': None}, 596_049_920),
}

"""Tests of converted models against the equations of their papers and against transformers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.convert import __main__ as convert
from experiments.convert import command as convert_command
from experiments.convert import converters, interop
from experiments.lab.errors import BadInput
from experiments.lab.weights import files
from tests.experiments.convert.other_models import (
  BATCH,
  CHECKPOINTS,
  DEPTH,
  GPT2,
  LENGTH,
  LLAMA,
  LLAMA3,
  TOKENS,
  WIDTH,
  expected_logits,
  library,
  random_checkpoint_tensors,
  write_checkpoint,
)
from tests.support import command
from tests.support.reference import assert_close


def error_message(function, *values):
  """Returns the message of the BadInput that a call raises, which must be one line."""
  with pytest.raises(BadInput) as error:
    function(*values)
  assert '\n' not in str(error.value)
  return str(error.value)


def cached_logits(model, parameters, tokens):
  """Computes logits token by token with a cached state."""
  state, logits_by_token = model.initial_state(BATCH, LENGTH, WIDTH), []
  apply = jax.jit(model.apply)
  for column in np.split(tokens, tokens.shape[1], 1):
    logits, state = apply(parameters, column, state)
    logits_by_token.append(logits)
  return np.concatenate(logits_by_token, 1)


@pytest.mark.parametrize('name', CHECKPOINTS)
def test_a_converted_model_computes_the_equations_of_its_paper(name, tmp_path):
  config = CHECKPOINTS[name]
  model, parameters = converters.load_model(write_checkpoint(tmp_path, config))
  assert_close(jax.jit(model.apply)(parameters, TOKENS)[0], expected_logits(config))
  initialised = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
  assert jax.tree.map(lambda a: (a.shape, a.dtype), parameters) == jax.tree.map(
    lambda a: (a.shape, a.dtype), initialised)


@pytest.mark.parametrize('name', ['gpt2', 'llama 3.1', 'llama, dynamic', 'mistral'])
def test_a_converted_model_has_the_same_logits_with_a_cache(name, tmp_path):
  config = CHECKPOINTS[name]
  model, parameters = converters.load_model(write_checkpoint(tmp_path, config))
  assert_close(cached_logits(model, parameters, TOKENS), expected_logits(config))


def test_the_printed_model_shows_the_architecture(tmp_path):
  model, _ = converters.load_model(write_checkpoint(tmp_path, CHECKPOINTS['llama 3.1']))
  printed = str(model)
  for part in (f'depth = {DEPTH}', 'Llama3Rotary(', 'stretch = 4.0', 'trained_length = 9',
               'RMSNorm(', "activation = 'swiglu'", 'key_width = 8', 'num_key_value_heads = 1'):
    assert part in printed, part


def test_logits_beyond_the_last_position_are_nan(tmp_path):
  model, parameters = converters.load_model(write_checkpoint(tmp_path, GPT2))
  logits, _ = jax.jit(model.apply)(parameters, np.zeros((1, 10), np.int32))
  assert np.isnan(logits[:, 9]).all()


@pytest.mark.parametrize(('name', 'older_fields', 'extra_tensor'), [
  ('gpt2', {}, 'h.1.attn.bias'),
  ('llama, linear', {
    'rope_parameters': None, 'rope_theta': 500, 'rope_scaling': {'type': 'linear', 'factor': 3},
  }, 'layers.0.self_attn.rotary_emb.inv_freq'),
])
def test_older_formats_of_a_checkpoint_give_the_same_model(
  tmp_path, name, older_fields, extra_tensor,
):
  """Older files lack the prefix, have other field names, and store masks and frequencies."""
  config = CHECKPOINTS[name]
  tensors = random_checkpoint_tensors(config) | {extra_tensor: np.ones((1, 9, 9), bool)}
  folder = write_checkpoint(tmp_path, config | older_fields, tensors, prefix=False)
  model, parameters = converters.load_model(folder)
  assert_close(jax.jit(model.apply)(parameters, TOKENS)[0], expected_logits(config))


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_half_precision_tensors_become_float32_exactly(tmp_path, dtype):
  tensors = random_checkpoint_tensors(LLAMA)
  short = {name: a.astype(jnp.dtype(dtype)) for name, a in tensors.items()}
  long = {name: a.astype(np.float32) for name, a in short.items()}
  converted, expected = (
    converters.load_model(write_checkpoint(tmp_path, LLAMA, precision))[1]
    for precision in (short, long))
  jax.tree.map(np.testing.assert_array_equal, converted, expected)


def test_a_checkpoint_in_several_files_gives_the_same_model(tmp_path):
  single_file = converters.load_model(write_checkpoint(tmp_path, LLAMA))
  tensors = library.load_file(tmp_path / 'model.safetensors')
  (tmp_path / 'model.safetensors').unlink()
  file_of_tensor = {name: f'part-{i % 3}.safetensors' for i, name in enumerate(tensors)}
  for file in set(file_of_tensor.values()):
    part = {name: a for name, a in tensors.items() if file_of_tensor[name] == file}
    library.save_file(part, tmp_path / file)
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': file_of_tensor}))
  model, parameters = converters.load_model(tmp_path)
  assert model == single_file[0]
  jax.tree.map(np.testing.assert_array_equal, parameters, single_file[1])

  missing_file = {'model.norm.weight': 'part-9.safetensors'}
  index.write_text(json.dumps({'weight_map': file_of_tensor | missing_file}))
  assert 'part-9.safetensors' in error_message(converters.load_model, tmp_path)
  index.write_text(json.dumps({'weight_map': file_of_tensor | {'more': 'part-1.safetensors'}}))
  error = error_message(converters.load_model, tmp_path)
  assert "part-1.safetensors lacks the tensor 'more'" in error
  index.write_text(json.dumps({'weight_map': file_of_tensor | {'more': '../part-1.safetensors'}}))
  assert 'has no weight_map' in error_message(converters.load_model, tmp_path)


@pytest.mark.parametrize(('config', 'change', 'message'), [
  (GPT2, {'model_type': 'bert'}, "no converter for the model_type 'bert'"),
  (GPT2, {'activation_function': 'quick_gelu'}, 'activation_function = "quick_gelu"'),
  (GPT2, {'scale_attn_by_inverse_layer_idx': True}, 'scale_attn_by_inverse_layer_idx = true'),
  (GPT2, {'n_head': 3}, '3 heads'),
  (GPT2, {'n_layer': 2.5}, 'n_layer = 2.5'),
  (GPT2, {'n_layer': 'two'}, 'n_layer = "two"'),
  (GPT2, {'n_embd': None}, 'lacks the field n_embd'),
  (GPT2, {'logit_scale': 0.5}, 'logit_scale = 0.5'),
  (LLAMA, {'hidden_act': 'gelu'},
   'hidden_act = "gelu" is not supported (supported: "silu" or "swish")'),
  (LLAMA, {'num_key_value_heads': 3}, 'cannot share 3 keys'),
  (LLAMA, {'rms_norm_eps': -1}, 'rms_norm_eps = -1'),
  (LLAMA, {'mlp_bias': True}, 'mlp_bias = true'),
  (LLAMA, {'quantization_config': {'bits': 4}}, 'quantization_config = {"bits": 4}'),
  (LLAMA, {'rope_scaling': {'type': 'longrope', 'factor': 2.0}}, 'type = "longrope"'),
  (LLAMA, {'rope_parameters': LLAMA3 | {'beta_fast': 32}}, 'rope_parameters: beta_fast = 32'),
  (LLAMA, {'rope_scaling': 3}, 'rope_scaling = 3'),
  (LLAMA, {'model_type': 'mistral', 'attention_bias': True}, 'attention_bias = true'),
  (LLAMA, {'model_type': 'qwen2', 'use_sliding_window': True}, 'use_sliding_window = true'),
  (LLAMA, {'model_type': 'qwen2', 'layer_types': ['sliding_attention']}, 'sliding_attention'),
])
def test_an_unsupported_setting_is_refused_by_name(tmp_path, config, change, message):
  write_checkpoint(tmp_path, config)
  (tmp_path / 'config.json').write_text(json.dumps(config | change))
  assert message in error_message(converters.load_model, tmp_path)


@pytest.mark.parametrize(('config', 'change', 'message'), [
  (LLAMA, lambda t: t.pop('norm.weight'), "lacks the tensor 'norm.weight'"),
  (LLAMA, lambda t: t.update(score=t['norm.weight']), "an unexpected tensor 'model.score'"),
  (LLAMA, lambda t: t.update({'norm.weight': t['norm.weight'].astype(np.int32)}),
   "'model.norm.weight' is int32, not float32"),
  (GPT2, lambda t: t.update({'wte.weight': t['wte.weight'][:-1]}),
   "'transformer.wte.weight' has the shape [10, 8], the model needs [11, 8]"),
  (GPT2, lambda t: t.update({'lm_head.weight': t['wte.weight'] + 1}), 'differs from the embedding'),
])
def test_unexpected_tensors_are_refused_by_name(tmp_path, config, change, message):
  tensors = random_checkpoint_tensors(config)
  change(tensors)
  error = error_message(converters.load_model, write_checkpoint(tmp_path, config, tensors))
  assert message in error and str(tmp_path) in error


def test_a_tied_head_may_be_stored_if_it_equals_the_embedding(tmp_path):
  tensors = random_checkpoint_tensors(GPT2)
  tensors['lm_head.weight'] = tensors['wte.weight'].copy()
  _, parameters = converters.load_model(write_checkpoint(tmp_path, GPT2, tensors))
  assert 'head' not in parameters['params']


@pytest.mark.parametrize('weight_map', [
  None, [], {}, {'a': 3}, {'a': ''}, {'a': '.'}, {'a': '..'}, {'a': '/etc/passwd'}, {'a': '../x'},
  {'a': 'x\0y'}, {'a': '\ud800'}, {'a': 'config.json'}, {'a': 'gone'}, {'a': 'x' * 5000},
])
def test_an_index_with_invalid_files_is_refused(tmp_path, weight_map):
  write_checkpoint(tmp_path, LLAMA)
  (tmp_path / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': weight_map}))
  assert str(tmp_path) in error_message(converters.load_model, tmp_path)


@pytest.mark.parametrize('text', ['{', '[]', None])
def test_a_missing_or_invalid_config_is_refused(tmp_path, text):
  if text is not None:
    (tmp_path / 'config.json').write_text(text)
  assert 'config.json' in error_message(converters.load_model, tmp_path)


def test_a_pickled_checkpoint_is_refused(tmp_path):
  (write_checkpoint(tmp_path, LLAMA) / 'model.safetensors').rename(tmp_path / 'pytorch_model.bin')
  assert 'has no model.safetensors' in error_message(converters.load_model, tmp_path)


def test_the_command_converts_and_generates_greedily(tmp_path):
  folder, out = write_checkpoint(tmp_path, GPT2), tmp_path / 'out.safetensors'
  done = command.run_command(
    convert, f'--checkpoint={folder}', f'--out={out}', '--prompt_ids=3,3,1', '--generate=4')
  assert done.code == 0, done.err
  model, parameters = converters.load_model(folder)
  parameter_count = sum(a.size for a in random_checkpoint_tensors(GPT2).values())
  assert done.out.startswith(f'{model}\n{parameter_count:,} param')
  written = files.load_parameters(out, parameters, {'config': json.dumps(GPT2)})
  jax.tree.map(np.testing.assert_array_equal, written, parameters)
  tokens = [3, 3, 1]
  for _ in range(4):  # recomputes all logits for each token by the equations
    tokens.append(int(expected_logits(GPT2, np.array([tokens]))[0, -1].argmax()))
  assert done.out.splitlines()[-1] == ','.join(map(str, tokens[3:]))


def test_the_command_continues_a_text(tmp_path):
  tokenizers = pytest.importorskip('tokenizers', reason='the extra `weights` has no tokenizers')
  folder = write_checkpoint(tmp_path, GPT2)
  vocabulary = {f'w{token}': token for token in range(GPT2['vocab_size'])}
  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token='w0'))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  tokenizer.save(str(folder / 'tokenizer.json'))
  text_output, ids_output = (
    command.run_command(convert, f'--checkpoint={folder}', prompt, '--generate=4').out
    for prompt in ('--prompt=w3 w3 w1', '--prompt_ids=3,3,1'))
  generated = ids_output.splitlines()[-1].split(',')
  assert text_output.splitlines()[-1].split() == ['w3', 'w3', 'w1', *(f'w{i}' for i in generated)]


def test_generation_ends_at_the_eos_token_of_the_checkpoint(tmp_path):
  """The end token is part of the generated text, as in transformers."""
  folder = write_checkpoint(tmp_path, LLAMA)

  def generate_with(**files):
    for name, fields in files.items():
      (folder / f'{name}.json').write_text(json.dumps(fields))
    return command.run_command(
      convert, f'--checkpoint={folder}', '--prompt_ids=2', '--generate=5').out.splitlines()[-1]

  all_tokens = generate_with().split(',')
  assert len(all_tokens) == 5
  end = next(token for token in all_tokens[1:] if token != all_tokens[0])
  expected_text = ','.join(all_tokens[:all_tokens.index(end) + 1])
  assert generate_with(config={**LLAMA, 'eos_token_id': int(end)}) == expected_text
  first_token = all_tokens[0]
  assert generate_with(generation_config={'eos_token_id': [int(first_token), 10]}) == first_token
  config = {**LLAMA, 'eos_token_id': [int(end)]}
  assert generate_with(generation_config={}, config=config) == expected_text
  assert generate_with(config={**LLAMA, 'eos_token_id': None}) == ','.join(all_tokens)


@pytest.mark.parametrize(('count', 'message'), [
  ('10000000', 'tokens are too many for this machine'), ('20000000', 'from 1 to 16777216')])
def test_more_tokens_than_memory_allows_are_refused(tmp_path, monkeypatch, count, message):
  monkeypatch.setattr('experiments.lab.measure.memory.available_bytes', lambda: 10**8)
  folder = write_checkpoint(tmp_path, LLAMA)
  done = command.run_command(
    convert, f'--checkpoint={folder}', '--prompt_ids=1', f'--generate={count}')
  assert done.code == 2 and message in done.err and done.err.count('\n') == 1


def test_a_prompt_beyond_the_trained_length_of_dynamic_positions_is_refused(tmp_path):
  folder = write_checkpoint(tmp_path, CHECKPOINTS['llama, dynamic'])
  arguments = f'--checkpoint={folder}', '--generate=6'
  assert command.run_command(convert, *arguments, '--prompt_ids=1,2,3,4').code == 0
  done = command.run_command(convert, *arguments, '--prompt_ids=1,2,3,4,5')
  assert done.code == 2
  assert 'a prompt of 5 tokens is longer than the trained length of 4' in done.err


@pytest.mark.parametrize(('content', 'prompt', 'message'), [
  (b'', 'a', 'is not a valid tokenizer'),
  (b'[]', 'a', 'is not a valid tokenizer'),
  (b'\xff', 'a', 'is not a valid tokenizer'),
  (b'[' * 100_000, 'a', 'is not a valid tokenizer'),
  (None, '\udcff', 'not UTF-8'),
  (None, 'unknown', 'cannot encode this prompt'),
  (None, '', 'at least one token id'),
  (None, 'far', 'each from 0 to 10'),
])
def test_invalid_tokenizers_and_prompts_are_refused(tmp_path, content, prompt, message):
  tokenizers = pytest.importorskip('tokenizers', reason='the extra `weights` has no tokenizers')
  folder = write_checkpoint(tmp_path, GPT2)
  if content is None:  # a tokenizer without a token for unknown words
    model = tokenizers.models.WordLevel({'a': 0, 'far': 11}, unk_token='none')
    tokenizers.Tokenizer(model).save(str(folder / 'tokenizer.json'))
  else:
    (folder / 'tokenizer.json').write_bytes(content)
  done = command.run_command(convert, f'--checkpoint={folder}', f'--prompt={prompt}')
  assert done.code == 2 and message in done.err and done.err.count('\n') == 1


@pytest.mark.parametrize(('arguments', 'message'), [
  ((), '--checkpoint=FOLDER'),
  (('--prompt=a', '--prompt_ids=1'), 'only one'),
  (('--prompt_ids=1,x',), "not '1,x'"),
  (('--prompt_ids=11',), 'from 0 to 10'),
  (('--prompt_ids=' + '9' * 5000,), 'whole numbers'),
  (('--prompt_ids=' + '9' * 4000,), 'from 0 to 10'),
  (('--prompt=a',), 'has no tokenizer.json'),
  (('--prompt_ids=1', '--generate=10'), '10 positions, but this model has 9'),
  (('--prompt_ids=1', '--generate=0'), 'from 1 to'),
  (('--out=/nowhere/at/all',), 'cannot write /nowhere/at/all'),
])
def test_the_command_reports_invalid_flags_in_one_line(tmp_path, arguments, message):
  folder = (f'--checkpoint={write_checkpoint(tmp_path, GPT2)}',) if arguments else ()
  done = command.run_command(convert, *folder, *arguments)
  assert done.code == 2 and message in done.err and done.err.count('\n') == 1


@pytest.mark.parametrize('name', interop.CONFIGURATIONS)
def test_logits_equal_those_of_transformers(name):
  for library_name in ('torch', 'transformers'):
    pytest.importorskip(library_name, reason='the extra `interop` is not installed')
  agreement = interop.measure_logit_agreement(name)
  assert agreement.standard_deviation > 1
  assert max(agreement.one_call or 0, agreement.cached) < 1e-4, agreement
  assert agreement.one_call is not None or name in interop.CACHED_ONLY


def test_generation_ends_at_the_same_token_as_in_transformers(tmp_path):
  torch = pytest.importorskip('torch', reason='the extra `interop` is not installed')
  pytest.importorskip('transformers', reason='the extra `interop` is not installed')
  reference = interop.random_transformers_model('Llama')

  def generate_with_both(ends):
    reference.generation_config.eos_token_id, reference.generation_config.pad_token_id = ends, 0
    reference.save_pretrained(tmp_path)
    prompt = torch.tensor([[3, 1, 4]])
    expected_tokens = reference.generate(
      prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False)
    assert converters.read_end_tokens(tmp_path) == tuple(ends or ())
    generated = convert_command.generate_greedily(
      *converters.load_model(tmp_path), [3, 1, 4], 12, converters.read_end_tokens(tmp_path))
    assert generated == expected_tokens[0, 3:].tolist()
    return generated

  unlimited = generate_with_both(None)
  end = next(token for token in unlimited[1:] if token != unlimited[0])
  assert generate_with_both([95, end]) == unlimited[: unlimited.index(end) + 1]

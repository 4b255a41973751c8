"""Models of others compute as their equations, and as their own code, or are refused by name."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.convert import __main__ as convert
from experiments.convert import command as writer
from experiments.convert import converters as weights
from experiments.convert import interop
from experiments.lab.errors import BadInput
from experiments.lab.weights import files
from tests.experiments.convert.other_models import (
  BATCH,
  CHECKPOINTS,
  DEPTH,
  GPT2,
  LENGTH,
  LLAMA,
  TOKENS,
  WAVES,
  WIDTH,
  checkpoint,
  expected,
  library,
  tensors_of,
)
from tests.support import command
from tests.support.reference import close


def refused(function, *values):
  """What is said of it, in one line."""
  with pytest.raises(BadInput) as error:
    function(*values)
  assert '\n' not in str(error.value)
  return str(error.value)


def stepped(model, parameters, tokens):
  """Logits, token after token through the state."""
  state, found, read = model.initial_state(BATCH, LENGTH, WIDTH), [], jax.jit(model.apply)
  for column in np.split(tokens, tokens.shape[1], 1):
    logits, state = read(parameters, column, state)
    found.append(logits)
  return np.concatenate(found, 1)


@pytest.mark.parametrize('name', CHECKPOINTS)
def test_a_checkpoint_computes_its_equations(name, tmp_path):
  config = CHECKPOINTS[name]
  model, parameters = weights.load(checkpoint(tmp_path, config))
  close(jax.jit(model.apply)(parameters, TOKENS)[0], expected(config))
  whole = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
  assert jax.tree.map(lambda a: (a.shape, a.dtype), parameters) == jax.tree.map(
    lambda a: (a.shape, a.dtype), whole)


@pytest.mark.parametrize('name', ['gpt2', 'llama, waves', 'llama, dynamic', 'mistral'])
def test_a_checkpoint_answers_one_token_at_a_time_too(name, tmp_path):
  config = CHECKPOINTS[name]
  close(stepped(*weights.load(checkpoint(tmp_path, config)), TOKENS), expected(config))


def test_the_expression_is_the_architecture(tmp_path):
  model, _ = weights.load(checkpoint(tmp_path, CHECKPOINTS['llama, waves']))
  printed = str(model)
  for part in (f'depth = {DEPTH}', 'Llama3Rotary(', 'stretch = 4.0', 'trained_length = 9',
               'RMSNorm(', "activation = 'swiglu'", 'key_width = 8', 'num_key_value_heads = 1'):
    assert part in printed, part


def test_beyond_its_positions_a_model_answers_nan(tmp_path):
  model, parameters = weights.load(checkpoint(tmp_path, GPT2))
  logits, _ = jax.jit(model.apply)(parameters, np.zeros((1, 10), np.int32))
  assert np.isnan(logits[:, 9]).all()


@pytest.mark.parametrize(('name', 'older', 'more'), [
  ('gpt2', {}, 'h.1.attn.bias'),
  ('llama, linear', {
    'rope_parameters': None, 'rope_theta': 500, 'rope_scaling': {'type': 'linear', 'factor': 3},
  }, 'layers.0.self_attn.rotary_emb.inv_freq'),
])
def test_older_checkpoints_mean_the_same(tmp_path, name, older, more):
  """No prefix, fields by other names, masks and frequencies among the tensors."""
  config = CHECKPOINTS[name]
  tensors = tensors_of(config) | {more: np.ones((1, 9, 9), bool)}
  model, parameters = weights.load(checkpoint(tmp_path, config | older, tensors, prefix=False))
  close(jax.jit(model.apply)(parameters, TOKENS)[0], expected(config))


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_shorter_numbers_become_float32_and_lose_nothing(tmp_path, dtype):
  short = {name: a.astype(jnp.dtype(dtype)) for name, a in tensors_of(LLAMA).items()}
  long = {name: a.astype(np.float32) for name, a in short.items()}
  found, whole = (weights.load(checkpoint(tmp_path, LLAMA, t))[1] for t in (short, long))
  jax.tree.map(np.testing.assert_array_equal, found, whole)


def test_parts_of_a_checkpoint_are_one(tmp_path):
  whole = weights.load(checkpoint(tmp_path, LLAMA))
  tensors = library.load_file(tmp_path / 'model.safetensors')
  (tmp_path / 'model.safetensors').unlink()
  places = {name: f'part-{i % 3}.safetensors' for i, name in enumerate(tensors)}
  for file in set(places.values()):
    library.save_file({n: a for n, a in tensors.items() if places[n] == file}, tmp_path / file)
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': places}))
  model, parameters = weights.load(tmp_path)
  assert model == whole[0]
  jax.tree.map(np.testing.assert_array_equal, parameters, whole[1])

  index.write_text(json.dumps({'weight_map': places | {'model.norm.weight': 'part-9.safetensors'}}))
  assert 'part-9.safetensors' in refused(weights.load, tmp_path)
  index.write_text(json.dumps({'weight_map': places | {'more': 'part-1.safetensors'}}))
  assert "part-1.safetensors lacks the tensor 'more'" in refused(weights.load, tmp_path)
  index.write_text(json.dumps({'weight_map': places | {'more': '../part-1.safetensors'}}))
  assert 'has no weight_map' in refused(weights.load, tmp_path)


@pytest.mark.parametrize(('config', 'change', 'says'), [
  (GPT2, {'model_type': 'bert'}, "no converter for the model_type 'bert'"),
  (GPT2, {'activation_function': 'quick_gelu'}, 'activation_function = "quick_gelu"'),
  (GPT2, {'scale_attn_by_inverse_layer_idx': True}, 'scale_attn_by_inverse_layer_idx = true'),
  (GPT2, {'n_head': 3}, '3 heads'),
  (GPT2, {'n_layer': 2.5}, 'n_layer = 2.5'),
  (GPT2, {'n_layer': 'two'}, 'n_layer = "two"'),
  (GPT2, {'n_embd': None}, 'lacks n_embd'),
  (GPT2, {'logit_scale': 0.5}, 'logit_scale = 0.5'),
  (LLAMA, {'hidden_act': 'gelu'},
   'hidden_act = "gelu" cannot be taken over; there is "silu" or "swish"'),
  (LLAMA, {'num_key_value_heads': 3}, 'cannot share 3 keys'),
  (LLAMA, {'rms_norm_eps': -1}, 'rms_norm_eps = -1'),
  (LLAMA, {'mlp_bias': True}, 'mlp_bias = true'),
  (LLAMA, {'quantization_config': {'bits': 4}}, 'quantization_config = {"bits": 4}'),
  (LLAMA, {'rope_scaling': {'type': 'longrope', 'factor': 2.0}}, 'type = "longrope"'),
  (LLAMA, {'rope_parameters': WAVES | {'beta_fast': 32}}, 'rope_parameters: beta_fast = 32'),
  (LLAMA, {'rope_scaling': 3}, 'rope_scaling = 3'),
  (LLAMA, {'model_type': 'mistral', 'attention_bias': True}, 'attention_bias = true'),
  (LLAMA, {'model_type': 'qwen2', 'use_sliding_window': True}, 'use_sliding_window = true'),
  (LLAMA, {'model_type': 'qwen2', 'layer_types': ['sliding_attention']}, 'sliding_attention'),
])
def test_what_would_not_be_the_same_is_refused_by_name(tmp_path, config, change, says):
  checkpoint(tmp_path, config)
  (tmp_path / 'config.json').write_text(json.dumps(config | change))
  assert says in refused(weights.load, tmp_path)


@pytest.mark.parametrize(('config', 'change', 'says'), [
  (LLAMA, lambda t: t.pop('norm.weight'), "lacks the tensor 'norm.weight'"),
  (LLAMA, lambda t: t.update(score=t['norm.weight']), "an unexpected tensor 'model.score'"),
  (LLAMA, lambda t: t.update({'norm.weight': t['norm.weight'].astype(np.int32)}),
   "'model.norm.weight' is int32, not float32"),
  (GPT2, lambda t: t.update({'wte.weight': t['wte.weight'][:-1]}),
   "'transformer.wte.weight' has the shape [10, 8], the model needs [11, 8]"),
  (GPT2, lambda t: t.update({'lm_head.weight': t['wte.weight'] + 1}), 'is to be tied'),
])
def test_tensors_that_do_not_fit_are_refused_by_name(tmp_path, config, change, says):
  tensors = tensors_of(config)
  change(tensors)
  said = refused(weights.load, checkpoint(tmp_path, config, tensors))
  assert says in said and str(tmp_path) in said


def test_a_tied_head_may_stand_there_twice(tmp_path):
  tensors = tensors_of(GPT2)
  tensors['lm_head.weight'] = tensors['wte.weight'].copy()
  _, parameters = weights.load(checkpoint(tmp_path, GPT2, tensors))
  assert 'head' not in parameters['params']


@pytest.mark.parametrize('places', [
  None, [], {}, {'a': 3}, {'a': ''}, {'a': '.'}, {'a': '..'}, {'a': '/etc/passwd'}, {'a': '../x'},
  {'a': 'x\0y'}, {'a': '\ud800'}, {'a': 'config.json'}, {'a': 'gone'}, {'a': 'x' * 5000},
])
def test_an_index_that_leads_nowhere_is_refused(tmp_path, places):
  checkpoint(tmp_path, LLAMA)
  (tmp_path / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': places}))
  assert str(tmp_path) in refused(weights.load, tmp_path)


@pytest.mark.parametrize('text', ['{', '[]', None])
def test_a_config_that_is_none_is_refused(tmp_path, text):
  if text is not None:
    (tmp_path / 'config.json').write_text(text)
  assert 'config.json' in refused(weights.load, tmp_path)


def test_pickles_are_not_read(tmp_path):
  (checkpoint(tmp_path, LLAMA) / 'model.safetensors').rename(tmp_path / 'pytorch_model.bin')
  assert 'has no model.safetensors' in refused(weights.load, tmp_path)


def test_the_script_converts_and_writes_greedily(tmp_path):
  folder, out = checkpoint(tmp_path, GPT2), tmp_path / 'out.safetensors'
  done = command.run(convert, f'--checkpoint={folder}', f'--out={out}', '--prompt_ids=3,3,1',
                     '--generate=4')
  assert done.code == 0, done.err
  model, parameters = weights.load(folder)
  assert done.out.startswith(f'{model}\n{sum(a.size for a in tensors_of(GPT2).values()):,} param')
  read = files.load(out, parameters, {'config': json.dumps(GPT2)})
  jax.tree.map(np.testing.assert_array_equal, read, parameters)
  row = [3, 3, 1]
  for _ in range(4):  # the whole again for each token, by the equations
    row.append(int(expected(GPT2, np.array([row]))[0, -1].argmax()))
  assert done.out.splitlines()[-1] == ','.join(map(str, row[3:]))


def test_the_script_goes_on_from_text(tmp_path):
  tokenizers = pytest.importorskip('tokenizers', reason='the extra `weights` has no tokenizers')
  folder = checkpoint(tmp_path, GPT2)
  words = {f'w{token}': token for token in range(GPT2['vocab_size'])}
  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token='w0'))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  tokenizer.save(str(folder / 'tokenizer.json'))
  by_words, by_ids = (command.run(convert, f'--checkpoint={folder}', prompt, '--generate=4').out
                      for prompt in ('--prompt=w3 w3 w1', '--prompt_ids=3,3,1'))
  written = by_ids.splitlines()[-1].split(',')
  assert by_words.splitlines()[-1].split() == ['w3', 'w3', 'w1', *(f'w{i}' for i in written)]


def test_generation_ends_with_a_token_that_the_checkpoint_names(tmp_path):
  """And that token is written, as transformers does."""
  folder = checkpoint(tmp_path, LLAMA)

  def written(**files):
    for name, fields in files.items():
      (folder / f'{name}.json').write_text(json.dumps(fields))
    return command.run(
      convert, f'--checkpoint={folder}', '--prompt_ids=2', '--generate=5').out.splitlines()[-1]

  whole = written().split(',')
  assert len(whole) == 5
  end = next(token for token in whole[1:] if token != whole[0])
  expected = ','.join(whole[:whole.index(end) + 1])
  assert written(config={**LLAMA, 'eos_token_id': int(end)}) == expected
  assert written(generation_config={'eos_token_id': [int(whole[0]), 10]}) == whole[0]
  assert written(generation_config={}, config={**LLAMA, 'eos_token_id': [int(end)]}) == expected
  assert written(config={**LLAMA, 'eos_token_id': None}) == ','.join(whole)


@pytest.mark.parametrize(('count', 'says'), [
  ('10000000', 'tokens are too many for this machine'), ('20000000', 'at most 16777216')])
def test_more_tokens_than_there_is_memory_for_are_refused(tmp_path, monkeypatch, count, says):
  monkeypatch.setattr('experiments.lab.measure.memory.available', lambda: 10**8)
  folder = checkpoint(tmp_path, LLAMA)
  done = command.run(convert, f'--checkpoint={folder}', '--prompt_ids=1', f'--generate={count}')
  assert done.code == 2 and says in done.err and done.err.count('\n') == 1


def test_a_prompt_is_no_longer_than_dynamic_positions_are_the_same_for(tmp_path):
  folder = checkpoint(tmp_path, CHECKPOINTS['llama, dynamic'])
  words = f'--checkpoint={folder}', '--generate=6'
  assert command.run(convert, *words, '--prompt_ids=1,2,3,4').code == 0
  done = command.run(convert, *words, '--prompt_ids=1,2,3,4,5')
  assert done.code == 2 and 'a prompt of 5 tokens is longer than the 4' in done.err


@pytest.mark.parametrize(('content', 'prompt', 'says'), [
  (b'', 'a', 'is no tokenizer'),
  (b'[]', 'a', 'is no tokenizer'),
  (b'\xff', 'a', 'is no tokenizer'),
  (b'[' * 100_000, 'a', 'is no tokenizer'),
  (None, '\udcff', 'not UTF-8'),
  (None, 'unknown', 'cannot read this prompt'),
  (None, '', 'one token or more'),
  (None, 'far', 'each from 0 to 10'),
])
def test_tokenizers_and_prompts_that_cannot_be_are_refused(tmp_path, content, prompt, says):
  tokenizers = pytest.importorskip('tokenizers', reason='the extra `weights` has no tokenizers')
  folder = checkpoint(tmp_path, GPT2)
  if content is None:  # one that knows no token for words that it does not know
    model = tokenizers.models.WordLevel({'a': 0, 'far': 11}, unk_token='none')
    tokenizers.Tokenizer(model).save(str(folder / 'tokenizer.json'))
  else:
    (folder / 'tokenizer.json').write_bytes(content)
  done = command.run(convert, f'--checkpoint={folder}', f'--prompt={prompt}')
  assert done.code == 2 and says in done.err and done.err.count('\n') == 1


@pytest.mark.parametrize(('words', 'says'), [
  ((), '--checkpoint=FOLDER'),
  (('--prompt=a', '--prompt_ids=1'), 'not both'),
  (('--prompt_ids=1,x',), "not '1,x'"),
  (('--prompt_ids=11',), 'from 0 to 10'),
  (('--prompt_ids=' + '9' * 5000,), 'whole numbers'),
  (('--prompt_ids=' + '9' * 4000,), 'from 0 to 10'),
  (('--prompt=a',), 'has no tokenizer.json'),
  (('--prompt_ids=1', '--generate=10'), '10 positions; this model has 9'),
  (('--prompt_ids=1', '--generate=0'), 'at least 1'),
  (('--out=/nowhere/at/all',), 'cannot write /nowhere/at/all'),
])
def test_the_script_says_in_one_line_what_is_wrong(tmp_path, words, says):
  folder = (f'--checkpoint={checkpoint(tmp_path, GPT2)}',) if words else ()
  done = command.run(convert, *folder, *words)
  assert done.code == 2 and says in done.err and done.err.count('\n') == 1


@pytest.mark.parametrize('name', interop.CONFIGURATIONS)
def test_logits_are_those_of_transformers(name):
  for other in ('torch', 'transformers'):
    pytest.importorskip(other, reason='the extra `interop` is not installed')
  found = interop.agreement(name)
  assert found.spread > 1
  assert max(found.prompt or 0, found.cached) < 1e-4, found
  assert found.prompt is not None or name in interop.CACHED_ONLY


def test_generation_ends_where_that_of_transformers_does(tmp_path):
  torch = pytest.importorskip('torch', reason='the extra `interop` is not installed')
  pytest.importorskip('transformers', reason='the extra `interop` is not installed')
  theirs = interop.random_model('Llama')

  def written(ends):
    theirs.generation_config.eos_token_id, theirs.generation_config.pad_token_id = ends, 0
    theirs.save_pretrained(tmp_path)
    prompt = torch.tensor([[3, 1, 4]])
    expected = theirs.generate(
      prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False)
    assert weights.ends(tmp_path) == tuple(ends or ())
    found = writer.generate(*weights.load(tmp_path), [3, 1, 4], 12, weights.ends(tmp_path))
    assert found == expected[0, 3:].tolist()
    return found

  free = written(None)
  end = next(token for token in free[1:] if token != free[0])
  assert written([95, end]) == free[: free.index(end) + 1]

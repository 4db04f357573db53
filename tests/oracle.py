"""Run recorded cases of the reference through the package: `python tests/oracle.py DIR`

One line a case: largest relative error of forward values, loss, gradients, and parameters after each training step; pass, fail, or unsupported with the reason.
Relative means: to the largest magnitude of the array. Exit status 1 if any case fails."""
import json, os, re, sys
from pathlib import Path
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(Path(__file__).resolve().parents[1] / '.cache/jax'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import jax, jax.numpy as jnp, numpy as np, optax
from flax import nnx

from avmae_nb.config import Model, Modality, Optim, Stack
from avmae_nb.data.augment import mixup
from avmae_nb.interop.names import MODALITY, blank, from_released, released_names, to_released
from avmae_nb.interop.init import init_from_autoencoder
from avmae_nb.interop.released import infer, infer_classifier
from avmae_nb.model.heads import EncoderClassifier, classification_loss
from avmae_nb.model.losses import mae_loss
from avmae_nb.model.mae import AVMAE
from avmae_nb.model.masking import from_indices
from avmae_nb.model.mbt import MBT, Classifier, mean_logits
from avmae_nb.model.patching import grid_of, patchify
from avmae_nb.train.metrics import multilabel_scores
from avmae_nb.train.optim import layer_multipliers, optimizer, warmup_cosine

FORWARD, GRADIENT, HALF = 1e-5, 1e-4, 1e-2
ENCODERS = {'concat_and_encode': 'early', 'same_encoder': 'shared', 'separate_encoders': 'separate', 'separate_encoders_and_concat': 'mid'}
DECODERS = {'same_decoder': 'shared', 'separate_decoders': 'separate', 'concat_and_decode': 'early'}
POSITIONS = {'sinusoidal_1d': 'sinusoidal', 'sinusoidal_3d': 'sinusoidal_3d', 'learned_1d': 'learned', 'learned_space_time': 'learned_space_time'}

class Unsupported(Exception):
    "A case that the public API does not express, and should not"

class Case:
    "Arrays and configuration of one file"
    def __init__(self, path):
        with np.load(path, allow_pickle=False) as z: self.arrays = {k: z[k] for k in z.files if k != '__meta__'}; meta = json.loads(str(z['__meta__'])) if '__meta__' in z.files else {}
        self.name, self.meta, self.config = Path(path).stem, meta, meta.get('config') or {}
    def __contains__(self, key): return key in self.arrays
    def __getitem__(self, key): return self.arrays[key]
    def under(self, prefix): return {k[len(prefix):]: v for k, v in self.arrays.items() if k.startswith(prefix)}
    def option(self, path, default=None):
        "A value of the recorded configuration by dotted path"
        node = self.config
        for p in path.split('.'):
            if not isinstance(node, dict) or node.get(p) is None: return default
            node = node[p]
        return node

class Errors:
    "Largest relative error by kind"
    def __init__(self, half=False): self.worst, self.where, self.half = {}, {}, half
    def add(self, kind, what, ours, theirs, floor=0.):
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        if ours.size == theirs.size: ours = ours.reshape(theirs.shape)
        if ours.shape != theirs.shape: error = np.inf
        else: error = float(np.abs(ours - theirs).max(initial=0) / max(np.abs(theirs).max(initial=0), floor, 1e-30)) if theirs.size else 0.
        if not np.isfinite(error): error = np.inf
        if error >= self.worst.get(kind, -1): self.worst[kind], self.where[kind] = error, what
    def arrays(self, kind, ours, theirs):
        "Dicts of arrays; names that only one side has are an error; a millionth of the largest of all counts as zero"
        theirs = {k: v for k, v in theirs.items() if not k.endswith('key/bias')}
        ours = {k: v for k, v in ours.items() if not k.endswith('key/bias')}
        for k in set(ours) ^ set(theirs): self.add(kind, f'{k} is only {"ours" if k in ours else "theirs"}', np.zeros(1), np.ones(1) * np.inf)
        floor = 1e-6 * max((float(np.abs(v).max(initial=0)) for v in theirs.values()), default=0.)
        for k in set(ours) & set(theirs): self.add(kind, k, ours[k], theirs[k], floor)
    def bad(self):
        limit = {k: HALF if self.half else FORWARD if k in ('forward', 'loss', 'rate') else GRADIENT for k in self.worst}
        return [f'{k} {self.worst[k]:.1e} at {self.where[k]}' for k in self.worst if not self.worst[k] <= limit[k]]
    def __str__(self): return '  '.join(f'{k} {v:.1e}' for k, v in self.worst.items())

def ours(name): return {v: k for k, v in MODALITY.items()}.get(name, name)
def theirs(name): return MODALITY.get(name, name)

# ---- the autoencoder

def refuse(case, checks):
    for wrong, reason in checks:
        if wrong: raise Unsupported(reason)

def pretrain_model(case, inputs):
    "An `AVMAE` with the case's parameters, the table of names"
    o, loss = case.option, 'masked_feature_loss.'
    params = case.under('params/')
    refuse(case, [(o(loss + 'select_central_frame'), 'targets are central frames only'), (o(loss + 'standardise_per_patch_channels'), 'targets standardised per channel'),
                  (o(loss + 'reconstruct_grayscale'), 'grey targets'), (o('model.shuffle_inpainted_tokens'), "the release's shuffled inpainting is broken"),
                  (o('model.classifier', 'none') == 'token', 'a class token'), (o('l2_decay_factor'), 'an L2 penalty inside the loss'),
                  (o('model.normalise_encoder_output', True) is False, 'stacks without a final norm'), (o('model.decoder_config.use_projection_bias', True) is False, 'a decoder projection without bias'),
                  (o('model.dropout_rate') or o('model.attention_dropout_rate') or o('model.stochastic_droplayer_rate'), 'dropout in pre-training'),
                  (o(loss + 'loss_unmasked_tokens') and o('model.use_inpainting'), 'inpainting scored on its source slots'),
                  (o(loss + 'loss_unmasked_tokens') and batch_mask(case) is not None, 'loss on all tokens with padding: the release divides by examples instead of patches')])
    for k in ('positional_embedding', 'positional_embedding_decoder'):
        if o(f'model.{k}', 'sinusoidal_1d') not in POSITIONS: raise Unsupported(f'{k} {o(f"model.{k}")!r}')
    if o('model.attention_config.type', 'spacetime') != 'spacetime': raise Unsupported(f'attention {o("model.attention_config.type")!r}')
    alone = 'embedding/kernel' in params
    choices = dict(positions=POSITIONS[o('model.positional_embedding', 'sinusoidal_1d')], decoder_positions=POSITIONS[o('model.positional_embedding_decoder', 'sinusoidal_1d')],
                   objective='inpainting' if o('model.use_inpainting') and not alone else 'joint', inpainting='displaced', normalise_targets=bool(o(loss + 'standardise_per_patch')),
                   scored='all' if o(loss + 'loss_unmasked_tokens') else 'masked', dtype=o('model_dtype_str', 'float32'))
    if not alone: choices.update(encoder=ENCODERS[o('model.encoder_strategy')], decoder=DECODERS[o('model.decoder_strategy')])
    model, mods = infer(params, {ours(k): v.shape[1:3] if v.ndim == 4 else v.shape[1:4] for k, v in inputs.items()}, **choices)
    mods = {m: v.replace(weight=loss_weight(case, m, v)) for m, v in mods.items()}
    net = blank(lambda: AVMAE(model, mods, nnx.Rngs(0)))
    table = released_names(net, 'video' if alone else 'multimodal')
    report = from_released(net, params, table)
    if report.fresh or report.unused: raise Unsupported(f'parameters without a place: {(report.fresh + report.unused)[:3]}')
    return net, table

def loss_weight(case, m, modality):
    "Weight of a modality's loss; the release may leave out the division by the number of values"
    weights = case.option('masked_feature_loss.modality_weight', {})
    weight = weights.get(theirs(m), 1.) if isinstance(case.option('masked_feature_loss.target'), list) else 1.
    return weight * (1 if case.option('masked_feature_loss.normalise_by_output_dimension', False) else modality.values)

def batch_mask(case, step=''):
    "1 for real examples, 0 for padding, if the case has any"
    found = [v for k, v in case.arrays.items() if k.startswith(step) and k.split('/')[-1] == 'batch_mask' and 'step_' not in k[len(step):]]
    return jnp.asarray(found[0]) if found else None

def masks_of(net, case, step=''):
    "Masks with the recorded order of visible tokens"
    out = {}
    for m in net.modalities:
        hidden, visible = (case[f'{step}mask/{theirs(m)}/{k}_indices'] for k in ('masked', 'unmasked'))
        out[m] = from_indices(visible, hidden.shape[1] + visible.shape[1])
    return out

def inputs_of(case, net=None, step=''): return {ours(k): jnp.asarray(v) for k, v in case.under(f'{step}inputs/').items() if net is None or ours(k) in net.modalities}

def on_grid(values, index, tokens):
    "Values of scored slots at their grid place, NaN where nothing is predicted"
    out = np.full((len(values), tokens, values.shape[-1]), np.nan, np.float32)
    out[np.arange(len(values))[:, None], np.asarray(index)] = np.asarray(values, np.float32)
    return out

def compiled(net, forward=True):
    "`f(inputs, masks, example_mask)`: loss, gradients, and every intermediate, together; one program for all steps of a case"
    graph, _, rest = nnx.split(net, nnx.Param, ...)
    modalities = net.modalities
    def loss(p, inputs, masks, example_mask):
        out = nnx.merge(graph, p, rest)(inputs, masks)
        total, each = mae_loss(out, modalities, example_mask)
        return total, (each, out)
    @jax.jit
    def run(params, inputs, masks, example_mask):
        (total, (each, out)), grads = jax.value_and_grad(loss, has_aux=True)(params, inputs, masks, example_mask)
        if not forward: return {}, total, each, grads
        net = nnx.merge(graph, params, rest)
        found = {'out': out, 'evaluated': net.encode(inputs), 'projected': {m: net.decoder.projection[m](x) for m, x in out['encoded'].items()},
                 'tokens': {m: net.embedding[m](patchify(inputs[m], v)) for m, v in net.modalities.items()}}
        found['all'] = net.decoder(out['encoded'], masks, {m: grid_of(inputs[m], v) for m, v in net.modalities.items()}, True)
        return found, total, each, grads
    return lambda inputs, masks, example_mask=None: run(nnx.state(net, nnx.Param), inputs, masks, example_mask)

def check_forward(net, masks, found, case, errors):
    out, all_slots = found['out'], found['all']
    for m in net.modalities:
        r, n = theirs(m), masks[m].tokens
        for name, value in (('tokens', found['tokens']), ('encoder_output', out['encoded']), ('decoder_projection', found['projected']), ('eval_encoder_output', found['evaluated'])):
            if f'{name}/{r}' in case: errors.add('forward', f'{name}/{r}', value[m], case[f'{name}/{r}'])
        for name, got in (('decoder_output', on_grid(all_slots['decoded'][m], all_slots['scored'][m], n)), ('predictions', on_grid(all_slots['predictions'][m], all_slots['scored'][m], n)),
                          ('predictions', on_grid(out['predictions'][m], out['scored'][m], n)), ('targets', on_grid(out['targets'][m], out['scored'][m], n))):
            if f'{name}/{r}' not in case: continue
            want = case[f'{name}/{r}']
            errors.add('forward', f'{name}/{r}', np.where(np.isnan(got), want, got) if got.shape == want.shape else got, want)   # only the slots that were computed
        if f'mask/{r}/loss_mask' in case and net.config.scored == 'masked':
            weights = on_grid(out['weights'][m][..., None], out['scored'][m], n)[..., 0]
            errors.add('forward', f'loss_mask/{r}', np.nan_to_num(weights), case[f'mask/{r}/loss_mask'])

def run_pretrain(case, errors):
    net, table = pretrain_model(case, case.under('inputs/'))
    masks = masks_of(net, case)
    found, loss, each, grads = compiled(net)(inputs_of(case, net), masks, batch_mask(case))
    check_forward(net, masks, found, case, errors)
    if 'loss' in case: errors.add('loss', 'loss', loss, case['loss'])
    divided = case.option('masked_feature_loss.normalise_by_output_dimension', False)
    for m, l in each.items():
        if f'loss_unweighted/{theirs(m)}' in case: errors.add('loss', f'loss_unweighted/{theirs(m)}', l * (1 if divided else net.modalities[m].values), case[f'loss_unweighted/{theirs(m)}'])
    if case.under('grads/'): errors.arrays('gradients', to_released(net, grads, table), case.under('grads/'))
    if 'grad_norm' in case: errors.add('gradients', 'grad_norm', np.sqrt(sum((np.asarray(g, np.float64) ** 2).sum() for g in jax.tree.leaves(grads))), case['grad_norm'])

# ---- optimiser

def schedule_of(case):
    "Options of `Optim` from the recorded schedule; one step counts as an epoch"
    lr = case.option('lr_configs', {})
    refuse(case, [(lr.get('alpha'), 'a cosine that ends above zero'), (set(re.findall(r'\w+', lr.get('factors', ''))) - {'constant', 'linear_warmup', 'cosine_decay'}, f'schedule {lr.get("factors")!r}')])
    return dict(warmup_epochs=lr.get('warmup_steps', 0.), schedule='cosine' if 'cosine_decay' in lr.get('factors', '') else 'constant', clip_norm=case.option('max_grad_norm'))

def compiled_update(tx):
    "`f(gradients, state, parameters)`: new parameters and state"
    @jax.jit
    def update(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state
    return update

def run_pretrain_steps(case, errors):
    net, table = pretrain_model(case, case.under('step_0/inputs/'))
    lr, kind = case.option('lr_configs', {}), case.option('optimizer', 'adam')
    if kind != 'adam': raise Unsupported(f'pre-training with {kind}')
    refuse(case, [(case.option('optimizer_configs.weight_decay'), "decay inside the release's Adam")])
    betas = tuple(case.option(f'optimizer_configs.beta{i}', b) for i, b in ((1, 0.9), (2, 0.999)))
    tx = optimizer(Optim(betas=betas, weight_decay=case.option('explicit_weight_decay', 0.), decay='released', **schedule_of(case)),
                   lr['base_learning_rate'], lr.get('steps_per_cycle', 1), 1.)
    params = nnx.state(net, nnx.Param)
    state = tx.init(params)
    update, compute = compiled_update(tx), compiled(net, forward=False)
    for step in sorted({k.split('/')[0] for k in case.arrays if k.startswith('step_')}, key=lambda s: int(s[5:])):
        inputs, masks = inputs_of(case, net, f'{step}/'), masks_of(net, case, f'{step}/')
        _, loss, _, grads = compute(inputs, masks, batch_mask(case, f'{step}/'))
        for name, value in (('metrics/total_loss', loss), ('loss', loss)):
            if f'{step}/{name}' in case: errors.add('loss', f'{step}/{name}', value, case[f'{step}/{name}'])
        if f'{step}/learning_rate' in case: errors.add('rate', f'{step}/learning_rate', tx.schedule(int(step[5:])), case[f'{step}/learning_rate'], 1e-6 * lr['base_learning_rate'])
        if case.under(f'{step}/grads/'): errors.arrays('gradients', to_released(net, grads, table), case.under(f'{step}/grads/'))
        params, state = update(grads, state, params)
        nnx.update(net, params)
        errors.arrays('parameters', to_released(net, None, table), case.under(f'{step}/params_after/'))

def run_schedule(case, errors):
    total, warmup, base = int(case['total_steps']), float(case['warmup_steps']), float(case['base_learning_rate'])
    errors.add('rate', 'learning_rate', jax.vmap(warmup_cosine(base, warmup, total, 'cyclic'))(case['steps']), case['learning_rate'], base)

# ---- fine-tuning

def mbt_model(case, inputs):
    "An `MBT` with the case's parameters, the table of names, and the order in which the release lists modalities"
    o, params = case.option, case.under('params/')
    listed = [ours(m) for m in o('model.modality_fusion', list(inputs))]
    fuses = len(listed) > 1 and o('model.fusion_layer', 0) < o('model.num_layers', 0)
    refuse(case, [(fuses and not o('model.use_bottleneck', False), 'fusion without bottleneck tokens'), (o('model.share_encoder') and len(listed) > 1, 'modalities that share their layers'),
                  (o('model.classifier', 'gap') != 'gap', f'a classifier on {o("model.classifier")!r}'), (o('model.representation_size'), 'a hidden layer in the head'),
                  (fuses and o('model.test_with_bottlenecks', True) is False, 'bottlenecks in training only'), (o('model.dropout_rate') or o('model.attention_dropout_rate'), 'dropout'),
                  (o('l2_decay_factor'), 'an L2 penalty inside the loss'), (o('model.attention_config.type', 'spacetime') != 'spacetime', 'factorised attention'),
                  (len(listed) > 2 or not set(listed) <= set(MODALITY), f'modalities {listed}'), ('class_weights' in str(case.meta), 'class weights')])
    heads = tuple(o('dataset_configs.class_splits', ())) or None
    choices = dict(fusion_layer=o('model.fusion_layer', 0), stochastic_depth=o('model.stochastic_droplayer_rate', 0.), dropped='released', dtype=o('model_dtype_str', 'float32'))
    if heads: choices['classes'] = heads
    model, mods, _ = infer_classifier(params, {ours(k): v.shape[1:3] if v.ndim == 4 else v.shape[1:4] for k, v in inputs.items()}, **choices)
    net = blank(lambda: MBT(model, mods, nnx.Rngs(0)))
    table = released_names(net, listed[0])
    report = from_released(net, params, table)
    left = [k for k in report.unused if not (k == 'bottleneck' and len(mods) == 1)]   # the release keeps bottlenecks that one modality never uses
    if report.fresh or left: raise Unsupported(f'parameters without a place: {(report.fresh + left)[:3]}')
    return net, table, listed

def compiled_fine_tuning(case, net):
    "`f(inputs, labels, example_mask, drops)`: ((loss, output), gradients); one program for all steps of a case"
    kind, smoothing, classes = 'sigmoid' if 'multilabel' in case.option('model_name', '') else 'softmax', case.option('label_smoothing', 0.), net.config.classes
    graph, _, rest = nnx.split(net, nnx.Param, ...)
    def loss(p, inputs, labels, example_mask, drops):
        out = nnx.merge(graph, p, rest)(inputs, drops)
        return classification_loss(out['logits'], labels, kind, smoothing, classes, example_mask)[0], out
    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return lambda inputs, *rest: run(nnx.state(net, nnx.Param), inputs, *rest)

def labels_of(case, step=''):
    per = case.under(f'{step}label/')
    return {ours(k): jnp.asarray(v) for k, v in per.items()} if per else jnp.asarray(case[f'{step}label'])

def drops_of(case, net, step=''):
    "The recorded pattern of dropped branches"
    prefix, layers = f'{step}drop_pattern', range(net.config.encoder_layers.layers)
    if not net.config.stochastic_depth: return None
    if not case.under(prefix + '/'): raise Unsupported('stochastic depth without a recorded pattern')
    return {m: jnp.stack([jnp.stack([jnp.asarray(case[f'{prefix}/{l}/{theirs(m)}/{b}']).reshape(-1) for b in ('attention', 'mlp')]) for l in layers]) for m in net.modalities}

def without_idle(theirs, ours): return {k: v for k, v in theirs.items() if k in ours or np.abs(v).max() > 0 or k != 'bottleneck'}

def run_mbt(case, errors):
    net, table, listed = mbt_model(case, case.under('inputs/'))
    inputs = inputs_of(case, net)
    drops = drops_of(case, net)
    (loss, out), grads = compiled_fine_tuning(case, net)(inputs, labels_of(case), batch_mask(case), drops)
    plain = nnx.jit(lambda net, x: net(x))(net, inputs) if drops is not None else out
    joined = lambda o: np.concatenate([np.asarray(o['encoded'][m]) for m in listed], 1)
    for m, x in out['logits'].items():
        for name in (f'train_logits/{theirs(m)}', 'train_logits'):
            if name in case: errors.add('forward', name, x, case[name])
    for name, value in (('encoder_output', joined(out)), ('eval_encoder_output', joined(plain)), ('eval_logits', mean_logits(plain['logits']))):
        if name in case: errors.add('forward', name, value, case[name])
    if 'loss' in case: errors.add('loss', 'loss', loss, case['loss'])
    got = to_released(net, grads, table)
    if case.under('grads/'): errors.arrays('gradients', got, without_idle(case.under('grads/'), got))

def run_mbt_steps(case, errors):
    net, table, _ = mbt_model(case, case.under('step_0/inputs/'))
    lr, kind, o = case.option('lr_configs', {}), case.option('optimizer', 'momentum'), case.option
    if kind not in ('momentum', 'sgd'): raise Unsupported(f'fine-tuning with {kind}')
    refuse(case, [(o('optimizer_configs.nesterov'), 'Nesterov momentum'), (o('optimizer_configs.weight_decay'), 'weight decay in fine-tuning')])
    tx = optimizer(Optim(kind='sgd', momentum=o('optimizer_configs.momentum', 0.9 if kind == 'momentum' else 0.), weight_decay=o('explicit_weight_decay', 0.), decay='released', **schedule_of(case),
                         layer_decay=o('optimizer_configs.layerwise_decay') or 1.), lr['base_learning_rate'], lr.get('steps_per_cycle', 1), 1.)
    params = nnx.state(net, nnx.Param)
    state = tx.init(params)
    update, compute = compiled_update(tx), compiled_fine_tuning(case, net)
    for step in sorted({k.split('/')[0] for k in case.arrays if k.startswith('step_')}, key=lambda s: int(s[5:])):
        inputs, labels = inputs_of(case, net, f'{step}/'), labels_of(case, f'{step}/')
        if f'{step}/mixup_weights' in case:
            w = case[f'{step}/mixup_weights'].reshape(-1)
            inputs, labels = mixup(inputs, labels, {m: w[list(MODALITY).index(m) if len(w) > 1 else 0] for m in inputs})
        (loss, _), grads = compute(inputs, labels, batch_mask(case, f'{step}/'), drops_of(case, net, f'{step}/'))
        if f'{step}/loss' in case: errors.add('loss', f'{step}/loss', loss, case[f'{step}/loss'])
        got = to_released(net, grads, table)
        if case.under(f'{step}/grads/'): errors.arrays('gradients', got, without_idle(case.under(f'{step}/grads/'), got))
        params, state = update(grads, state, params)
        nnx.update(net, params)
        got, want = to_released(net, None, table), case.under(f'{step}/params_after/')
        errors.arrays('parameters', got, {k: v for k, v in want.items() if k in got or k != 'bottleneck'})

# ---- pieces

NAME_MODALITIES = {'video': Modality((2, 16, 16), (2, 16, 16), 3), 'audio': Modality((16, 16), (16, 16), 1)}

def named_modalities(names):
    found = {'video': any(n.startswith(('embedding/', 'embedding_rgb/')) for n in names), 'audio': any(n.startswith('embedding_spectrogram/') for n in names)}
    return {m: NAME_MODALITIES[m] for m in found if found[m]}

def depth(names, prefix): return max([int(re.search(r'encoderblock_(\d+)', n)[1]) + 1 for n in names if n.startswith(prefix + '/encoderblock_')], default=0)

def named_encoder(names, **more):
    "The smallest `Model` whose parameters have these names"
    joint, own, one = depth(names, 'Transformer_concat'), max(depth(names, 'Transformer_rgb'), depth(names, 'Transformer_spectrogram')), depth(names, 'Transformer')
    mid = any(n.startswith('Transformer_concat/') for n in names)
    encoder = 'mid' if mid else 'separate' if own else 'early'
    decoders = 'separate' if any(n.startswith('Decoder_rgb/') or n.startswith('Decoder_spectrogram/') for n in names) else 'shared'
    return Model(encoder=encoder, decoder=decoders, fusion_depth=joint, encoder_stack=Stack(2, joint + own or one, 1, 2), modality_tokens=any('modality_token' in n for n in names),
                 decoder_stack=Stack(2, max(depth(names, 'Decoder'), depth(names, 'Decoder_rgb'), depth(names, 'Decoder_spectrogram')), 1, 2), **more)

def named_mbt(names):
    layers = depth(names, 'Transformer')
    return blank(lambda: MBT(Classifier(classes=(2,), fusion_layer=layers, encoder_stack=Stack(2, layers, 1, 2), modality_tokens=any('modality_token' in n for n in names)), named_modalities(names), nnx.Rngs(0)))

def named_target(names):
    "A fine-tuning model whose parameters have these names"
    if any(n.startswith('ProjectionHead') for n in names): return named_mbt(names)
    net = blank(lambda: EncoderClassifier(named_encoder(names), named_modalities(names), (2,), nnx.Rngs(0)))
    strange = set(names) - {r.name for r in released_names(net).values()}
    if strange: raise Unsupported(f'a target with parameters without a place: {sorted(strange)[:3]}')
    return net

def run_init(case, errors):
    targets, origins, left = ([str(x) for x in case[k]] for k in ('target', 'origin', 'unused_sources'))
    names = sorted({o for o in origins if not o.startswith('<')} | set(left))
    target, source = named_target(targets), blank(lambda: AVMAE(named_encoder(names), named_modalities(names), nnx.Rngs(0)))
    there, here = ({k: r.name for k, r in released_names(m, n).items()} for m, n in ((target, None), (source, 'video' if 'decoder_projection/kernel' in names else None)))
    report = init_from_autoencoder(target, source)
    got = {there[k]: here[v] for k, v in report.restored.items()} | {there[k]: '<not restored>' for k in report.fresh}
    ours_only = {'embedding_spectrogram/kernel', 'embedding_spectrogram/bias'}   # the release loses the audio patch embedding
    expected = dict(zip(targets, origins))
    wrong = [k for k in expected if got.get(k, '<not restored>') != (k if k in ours_only and k in names else expected[k])]
    wrong += [f'unused {k}' for k in set(left) ^ {here[k] for k in report.unused} if not (k in ours_only and k in got)]
    errors.add('names', str(wrong[:3]), np.float64(len(wrong)), np.float64(0) if wrong else np.float64(len(wrong)))

def run_layerwise(case, errors):
    want = {k: float(v.reshape(-1)[0]) for k, v in case.under('multiplier/').items()}
    net = named_target(want)
    if any(k.startswith('Transformer_concat/') for k in want) and (net.config.encoder_layers.layers, net.config.fusion_depth) != (12, 2): raise Unsupported('the release numbers joint blocks rightly for 12 layers with 2 joint ones only')
    state = nnx.state(net, nnx.Param)
    decay = max((v for v in want.values() if v < 1), default=1.)   # of the top block
    got = to_released(net, jax.tree.map(lambda f, x: jnp.broadcast_to(f, x.shape), layer_multipliers(state, decay), state))
    for k, v in want.items():
        if k == 'bottleneck' and k not in got: continue
        errors.add('multipliers', k, np.unique(got[k]) if k in got else np.zeros(2), v)

def run_mixup(case, errors):
    inputs, w = inputs_of(case), case['weights'].reshape(-1)
    mixed, labels = mixup(inputs, jnp.asarray(case['label']), {m: w[list(MODALITY).index(m) if len(w) > 1 else 0] for m in inputs})
    for m in inputs:
        errors.add('forward', f'inputs/{theirs(m)}', mixed[m], case[f'mixed/inputs/{theirs(m)}'])
        for name in (f'mixed/label/{theirs(m)}', 'mixed/label'):
            if name in case: errors.add('forward', name, labels[m], case[name])

def run_map(case, errors):
    scores = multilabel_scores(case['logits'], case['labels'], batch_mask(case))
    got = {'AUC': scores.auc, 'd-prime': scores.d_prime, 'mAP': scores.map, 'nanmean_average_precision': scores.map, **{f'per_class_average_precision_{i}': v for i, v in enumerate(scores.per_class)}}
    for k, v in case.under('summary/').items():
        if k in got and np.isfinite(v): errors.add('forward', k, got[k], v)   # a class without positives has no value

# ---- which case is which

FAMILIES = [(lambda c: 'steps' in c and 'learning_rate' in c, run_schedule),
            (lambda c: 'target' in c and 'origin' in c, run_init),
            (lambda c: bool(c.under('multiplier/')), run_layerwise),
            (lambda c: bool(c.under('mixed/')), run_mixup),
            (lambda c: bool(c.under('summary/')), run_map),
            (lambda c: bool(c.under('params/ProjectionHeadAndClassifier_0/')) and any(k.startswith('step_') for k in c.arrays), run_mbt_steps),
            (lambda c: bool(c.under('params/ProjectionHeadAndClassifier_0/')), run_mbt),
            (lambda c: any(k.startswith('params/decoder_projection') for k in c.arrays) and any(k.startswith('step_') for k in c.arrays), run_pretrain_steps),
            (lambda c: any(k.startswith('params/decoder_projection') for k in c.arrays), run_pretrain)]

def run_case(path):
    "(status, text) of one file"
    try:
        case = Case(path)
        errors = Errors(half=case.option('model_dtype_str', 'float32') == 'bfloat16')
        run = next((f for match, f in FAMILIES if match(case)), None)
        if run is None: raise Unsupported('no known family: ' + ', '.join(sorted(case.arrays)[:4]))
        run(case, errors)
    except Unsupported as e: return 'unsupported', str(e)
    except Exception as e:
        if os.environ.get('ORACLE_TRACE'): raise
        return 'fail', f'{type(e).__name__}: {str(e)[:300]}'
    return ('fail', '; '.join(errors.bad())) if errors.bad() else ('pass', str(errors))

def main(folder):
    counts = {'pass': 0, 'fail': 0, 'unsupported': 0}
    files = sorted(Path(folder).glob('*.npz'))
    if not files: print(f'no .npz files in {folder}'); return 1
    for path in files:
        status, text = run_case(path)
        counts[status] += 1
        print(f'{path.stem:48} {status:12} {text}', flush=True)
    print(', '.join(f'{n} {k}' for k, n in counts.items()))
    return int(counts['fail'] > 0)

if __name__ == '__main__':
    if len(sys.argv) != 2: sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))

"A configuration whose runs take seconds, for tests that need the real model, world and loader"
from avmae_nb.config import Pretrain, Stack, preset

def toy_config(**changes) -> Pretrain:
    "16-wide, two layers, 2x2x2 and 2x8 patches; anything may be changed, nested by dots"
    stack = Stack(width=16, layers=2, heads=2, mlp=32)
    return preset('tiny').replace(**{'data.clips': 32, 'train.batch': 8, 'train.steps': 16, 'train.eval_clips': 8, 'train.eval_every': 8, 'train.checkpoint_every': 4, 'train.log_every': 1,
        'optim.warmup_epochs': 0.5, 'optim.base_learning_rate': 0.1, 'video.frames': 4, 'video.size': 16, 'video.short_side': 16, 'video.mask.ratio': 0.75, 'audio.seconds': 0.32,
        'model.encoder_stack': stack, 'model.decoder_stack': stack, **changes})

def rows(history, without=('time', 'clips_per_second')) -> list[dict]:
    "Log rows without what depends on the clock"
    return [{k: v for k, v in r.items() if k not in without} for r in history]

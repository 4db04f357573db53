"A configuration whose runs take seconds, for tests that need the real model, world and loader"
from avmae_nb.config import Audio, Data, LogMel, Mask, Model, Optim, Pretrain, Stack, Train, Video

STACK = Stack(width=16, layers=2, heads=2, mlp=32)
TOY = Pretrain(video=Video(frames=4, stride=1, fps=12.5, size=16, short_side=16, tubelet=(2, 8, 8), mask=Mask(ratio=0.75)),
               audio=Audio(seconds=0.32, logmel=LogMel(mean=-5.0, std=3.0), mask=Mask(ratio=0.7)),
               model=Model(size='tiny', encoder='mid', encoder_stack=STACK, decoder_stack=STACK, fusion_depth=1, decoder_fusion_depth=1),
               data=Data(clips=32), optim=Optim(base_learning_rate=0.1, warmup_epochs=0.5),
               train=Train(batch=8, steps=16, eval_clips=8, eval_every=8, checkpoint_every=4, log_every=1))

def toy_config(**changes) -> Pretrain:
    "`TOY` with fields changed, nested ones by dots"
    return TOY.replace(**changes)

def rows(history, without=('time', 'clips_per_second')) -> list[dict]:
    "Log rows without what depends on the clock"
    return [{k: v for k, v in r.items() if k not in without} for r in history]

"""One peer, run by bench/peers.py inside an environment that has torch and transformers: a line on standard input asks for a step or a matrix product.

    python bench/peers_torch.py video 2      # Hugging Face's VideoMAE, batch 2
    python bench/peers_torch.py audio 2      # Hugging Face's ViTMAE on as many patches as AudioMAE has
"""
import json, sys, time
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
from timing import cores, machine, resident
import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining, ViTMAEConfig, ViTMAEForPreTraining

DECODER = dict(decoder_hidden_size=384, decoder_num_hidden_layers=4, decoder_num_attention_heads=6, decoder_intermediate_size=1536)   # VideoMAE's, and ours

def video(batch: int, masked: int):
    "16 frames of 224 x 224 in tubelets of 2 x 16 x 16; random masks, as many hidden in each clip"
    model = VideoMAEForPreTraining(VideoMAEConfig(**DECODER, norm_pix_loss=False, use_mean_pooling=False, attn_implementation='sdpa'))
    x = torch.rand(batch, 16, 3, 224, 224) * 2 - 1
    def loss():
        hidden = torch.zeros(batch, 1568, dtype=torch.bool).scatter_(1, torch.rand(batch, 1568).argsort(1)[:, :masked], True)
        return model(x, bool_masked_pos=hidden).loss
    return model, loss

def audio(batch: int, masked: int):
    "400 patches of 16 x 16, as a spectrogram of 800 frames and 128 bins has them; ViTMAE wants a square, which is the same work"
    model = ViTMAEForPreTraining(ViTMAEConfig(**DECODER, image_size=320, num_channels=1, mask_ratio=masked / 400, attn_implementation='sdpa'))
    x = torch.randn(batch, 1, 320, 320)
    return model, lambda: model(x).loss

def adam(model):
    "Decoupled decay on matrices only, in the fused form, the fastest that PyTorch has on a CPU"
    decay, rest = [[p for p in model.parameters() if p.requires_grad and (p.ndim > 1) == many] for many in (True, False)]
    return torch.optim.AdamW([{'params': decay, 'weight_decay': 0.05}, {'params': rest, 'weight_decay': 0.0}], lr=1e-5, betas=(0.9, 0.95), fused=True)

def gemm(seconds: float = 0.5, size: int = 1536) -> float:
    "Fastest matrix product seen, FLOP/s"
    x, best, end = torch.ones(size, size), 1e9, time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        x @ x
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best

def main():
    kind, batch, masked = sys.argv[1], *map(int, sys.argv[2:4])
    torch.manual_seed(0)
    torch.set_num_threads(cores())
    model, loss_of = {'video': video, 'audio': audio}[kind](batch, masked)
    model.train()
    optimizer = adam(model)
    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss.item()
    say = lambda **what: print(json.dumps({**what, **resident()}), flush=True)
    say(parameters=sum(p.numel() for p in model.parameters() if p.requires_grad), machine=machine(), threads=torch.get_num_threads())
    for line in sys.stdin:
        if line.strip() == 'gemm': say(flops=gemm()); continue
        begin, cpu = time.perf_counter(), time.process_time()
        loss = step()
        say(seconds=time.perf_counter() - begin, cpu=time.process_time() - cpu, loss=loss)

if __name__ == '__main__': main()

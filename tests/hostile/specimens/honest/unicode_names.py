"""Uses names in other alphabets, and prints them.

Expected: passed
"""

from types import SimpleNamespace

import torch.nn.functional as F

Ρυθμός = {"名前": "学習", "ñandú": 3}


def шаг(модель, данные, оптимизатор):
    λ = модель(данные[:, :-1])
    потеря = F.cross_entropy(λ.flatten(0, 1), данные[:, 1:].flatten())
    потеря.backward()
    оптимизатор.step()
    оптимизатор.zero_grad()
    return λ.detach(), потеря.detach()


def inner_steps(模型, 数据, 优化器, 步数, device):
    print(Ρυθμός, "✓ 🚀")
    総数 = 0
    for _ in range(步数):
        batch = next(数据).to(device)
        ŝipo, perdo = шаг(模型, batch, 优化器)
        総数 += batch.numel()
    return SimpleNamespace(final_logits=ŝipo, total_tokens=総数, final_loss=perdo.item())

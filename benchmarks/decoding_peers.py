"""What decoding is compared with: a plain loop in torch, and Hugging Face's `generate`.

Both have the 16 layers and the heads of three streams of the 176 M model, random weights, a prefix, and draw greedily
with guidance. Neither knows of planner and refiner: the layers are one stack, the heads one matrix.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from songkit.imports import import_without

__all__ = ["EagerLoop", "HuggingFace"]

GUIDANCE = 1.5


class EagerLoop:
    """The loop as one writes it first: a batch of two guidance rows, keys and values that grow by concatenation."""

    def __init__(self, sizes: dict[str, int], prefix: int, dtype: torch.dtype) -> None:
        self.sizes, self.dtype, self.heads = sizes, dtype, sizes["heads"]
        width, inner, vocabulary = sizes["dim"], sizes["feed_forward"], sizes["streams"] * sizes["vocabulary"]
        shapes = {"qkv": (3 * width, width), "out": (width, width), "up": (2 * inner, width), "down": (width, inner)}
        self.layers = [{name: _random(shape, dtype) for name, shape in shapes.items()} for _ in range(sizes["layers"])]
        self.head, self.embed = _random((vocabulary, width), dtype), _random((vocabulary, width), dtype)
        self.gain = torch.ones(width, dtype=dtype)
        self.cache: list[tuple[Tensor, Tensor]] = []
        self.position = 0
        self.next = self._forward(_random((2, prefix, width), dtype, scale=1.0))

    @torch.inference_mode()
    def burst(self, steps: int) -> list[float]:
        """Returns the seconds that each of some steps takes."""
        times = []
        for _ in range(steps):
            begin = time.perf_counter()
            conditional, null = self.next.float()
            guided = (null + GUIDANCE * (conditional - null)).unflatten(0, (self.sizes["streams"], -1))
            ids = guided.argmax(-1) + torch.arange(len(guided)) * guided.shape[1]
            self.next = self._forward(self.embed[ids].sum(0).expand(2, 1, -1))
            times.append(time.perf_counter() - begin)
        return times

    def _forward(self, x: Tensor) -> Tensor:
        """Runs embeddings [2, S, D]; returns the logits [2, V] of the last."""
        start, self.position = self.position, self.position + x.shape[1]
        half = x.shape[2] // self.heads // 2
        angles = torch.arange(start, self.position)[:, None] * 10000.0 ** (-torch.arange(half) / half)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for i, layer in enumerate(self.layers):
            h = functional.linear(functional.rms_norm(x, x.shape[-1:], self.gain), layer["qkv"])
            q, k, v = h.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            q, k = _turn(q, cos, sin), _turn(k, cos, sin)
            if start:
                k, v = torch.cat([self.cache[i][0], k], 2), torch.cat([self.cache[i][1], v], 2)
                self.cache[i] = (k, v)
            else:
                self.cache.append((k, v))
            attended = functional.scaled_dot_product_attention(q, k, v, is_causal=not start)
            x = x + functional.linear(attended.transpose(1, 2).flatten(2), layer["out"])
            h = functional.linear(functional.rms_norm(x, x.shape[-1:], self.gain), layer["up"])
            gate, up = h.chunk(2, -1)
            x = x + functional.linear(functional.silu(gate) * up, layer["down"])
        return functional.linear(functional.rms_norm(x[:, -1], x.shape[-1:], self.gain), self.head)


class HuggingFace:
    """`LlamaForCausalLM.generate(guidance_scale=...)`, which runs the null branch as a call of its own."""

    def __init__(self, sizes: dict[str, int], prefix: int, dtype: torch.dtype) -> None:
        # It imports torchaudio where that is installed, even if it cannot be loaded; nothing of it is used here.
        import_without("transformers.models.llama.modeling_llama", ["torchaudio"])
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=sizes["streams"] * sizes["vocabulary"],
            hidden_size=sizes["dim"],
            intermediate_size=sizes["feed_forward"],
            num_hidden_layers=sizes["layers"],
            num_attention_heads=sizes["heads"],
            max_position_embeddings=8192,
            tie_word_embeddings=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        self.model = LlamaForCausalLM(config).to(dtype).eval()
        self.ids, self.null = (torch.randint(config.vocab_size, (1, prefix)) for _ in range(2))

    @torch.no_grad()
    def burst(self, steps: int) -> list[float]:
        """Returns the seconds that each of some steps takes; the prefix and the first step are left out."""
        from transformers import StoppingCriteria, StoppingCriteriaList

        stamps: list[float] = []

        class Clock(StoppingCriteria):  # type: ignore[misc]  # transformers is untyped here
            def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
                stamps.append(time.perf_counter())
                return torch.zeros(len(input_ids), dtype=torch.bool)

        self.model.generate(
            self.ids,
            attention_mask=torch.ones_like(self.ids),
            negative_prompt_ids=self.null,
            guidance_scale=GUIDANCE,
            do_sample=False,
            max_new_tokens=steps + 2,
            stopping_criteria=StoppingCriteriaList([Clock()]),
        )
        return [after - before for before, after in itertools.pairwise(stamps)][1 : steps + 1]


def _random(shape: tuple[int, ...], dtype: torch.dtype, scale: float = 0.02) -> Tensor:
    return (scale * torch.randn(shape)).to(dtype)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

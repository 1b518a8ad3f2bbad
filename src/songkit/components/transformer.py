"""A Llama-type decoder: pre-RMSNorm, rotary positions, SwiGLU, no biases (arXiv 2302.13971).

The towers of LeVo are of this form (tencent-ailab/SongGeneration at b1b03ec, codeclm/models/llama).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.components._key_values import KeyValues, room_for
from songkit.components.configs import TransformerConfig
from songkit.interfaces.backbone import Backbone, Cache
from songkit.kernels import NativeTower, PackedLinear, Replay, large

__all__ = ["Transformer", "build"]


def build(config: TransformerConfig) -> Transformer:
    """Makes a tower with random weights."""
    return Transformer(config)


class _Place(NamedTuple):
    """A song of a block during a step."""

    row: int
    cache: KeyValues
    at: Tensor
    """int64 [1]: where the step's keys and values go."""
    reach: int
    """How much of the cache is read; beyond `at` it is hidden."""


class Transformer(Backbone):
    """A stack of attention and gated feed-forward layers with a final norm."""

    _turn: Tensor | None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.dim
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, eps=1e-5)
        self.static = False
        """Whether steps are made as on a GPU, of tensors that stay where they are."""
        self._native: NativeTower | None = None
        self.register_buffer("_turn", None, persistent=False)  # made at the first native step
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                # Residual branches start small, so that depth does not raise the variance (GPT-2).
                branch = name.endswith(("proj.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * config.layers) ** 0.5 if branch else 0.02)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Runs whole sequences [B, S, D] under a mask [B, S]; see `Backbone.forward`."""
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        rotation, bias = self._rotation(positions), _bias(x, mask)
        for layer in self.layers:
            x = layer(x, rotation, bias)
        return self.norm(x)

    def forward_repeated(self, x: Tensor, mask: Tensor, *, prefix: int, repeats: int) -> Tensor:
        """Runs what sequences begin with once; see `Backbone.forward_repeated`."""
        if not prefix or repeats == 1:
            return super().forward_repeated(x, mask, prefix=prefix, repeats=repeats)
        rows, steps = len(x) // repeats, x.shape[1] - prefix
        positions = (mask[:rows].long().cumsum(1) - 1).clamp(min=0)
        rotation = self._rotation(torch.cat([positions, *[positions[:, prefix:]] * (repeats - 1)], 1))
        bias = _bias(x, mask[:rows])
        x = torch.cat([x[:rows, :prefix], *x[:, prefix:].split(rows)], 1)  # [B / repeats, prefix + repeats * steps, D]
        for layer in self.layers:
            x = layer(x, rotation, bias, prefix=prefix)
        shared, *own = self.norm(x).split([prefix, *[steps] * repeats], 1)
        return torch.cat([torch.cat([shared, states], 1) for states in own])

    def start(self, x: Tensor, mask: Tensor, capacity: int) -> tuple[Tensor, Cache]:
        """Runs the prefix [G, P, D] of one song; see `Backbone.start`."""
        x = x.to(self.norm.weight.dtype)
        length = x.shape[1]
        cache = self._cache(x, length - mask.sum(1), length, length + capacity)
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        rotation = self._rotation(positions)
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        allowed = (causal & mask[:, None, None, :]) | torch.eye(length, dtype=torch.bool, device=x.device)
        full = x.new_zeros(allowed.shape).masked_fill_(~allowed, float("-inf"))
        for i, layer in enumerate(self.layers):
            x = layer(x, rotation, full, keep=(cache.data[i], cache.scales[i] if cache.scales else None))
        return self.norm(x), cache

    def _cache(self, x: Tensor, first: Tensor, used: int, most: int) -> KeyValues:
        """Makes room for the keys and values of rows like x [G, P, D]."""
        layers, heads, size = self.config.layers, self.config.heads, self.config.dim // self.config.heads
        packed, native = self.layers[0].get_submodule("qkv"), self._is_native(x)
        dtype = packed.dtype if isinstance(packed, PackedLinear) else x.dtype
        if isinstance(packed, PackedLinear) and packed.precision == "int8" and native:
            dtype = torch.int8
        if not native:
            # Steps that read beyond what is used need numbers there; where none does, memory is taken as it is filled.
            make = x.new_zeros if x.is_cuda or self.static else x.new_empty
            shape = (2, len(x), heads, most, size)
            return KeyValues([make(shape, dtype=dtype) for _ in range(layers)], first, first.tolist(), used, most)
        shape = (2, len(x), heads, room_for(used, most), size)
        cache = KeyValues([large(shape, dtype) for _ in range(layers)], first, first.tolist(), used, most)
        if dtype == torch.int8:
            cache.scales = [large(shape[:-1], torch.float32) for _ in range(layers)]
        return cache

    def step(self, x: Tensor, caches: Sequence[Cache | None]) -> Tensor:
        """Runs one step [N * G, D] of a block of songs; see `Backbone.step`."""
        group = len(x) // len(caches)
        live = [(i * group, cache) for i, cache in enumerate(caches) if isinstance(cache, KeyValues)]
        for _, cache in live:
            if cache.used == cache.most:
                raise IndexError(f"a song's cache is full after {cache.used} positions: start it with more capacity")
            if cache.used == cache.room:
                cache.grow()
        if self._is_native(x):
            states = self._native_step(x, live)
        elif live and (x.is_cuda or self.static):
            states = self._static_step(x, live)
        else:
            at = torch.tensor([cache.used for _, cache in live], device=x.device)
            states = self._plain_step(x, self._positions(x, live), at, live, [cache.used + 1 for _, cache in live])
        for _, cache in live:
            cache.used += 1
        return states

    def _is_native(self, x: Tensor) -> bool:
        first = self.layers[0].get_submodule("qkv")
        if not isinstance(first, PackedLinear) or first.way != "native" or x.device.type != "cpu":
            return False
        if self._native is None or self._native.address != first.packed.data_ptr():
            fits = NativeTower.fits(list(self.layers), self.config.heads)
            self._native = NativeTower(list(self.layers), self.norm, self.config.heads) if fits else None
        return self._native is not None

    def _native_step(self, x: Tensor, live: Sequence[tuple[int, KeyValues]]) -> Tensor:
        """The same as `_plain_step`, of the rows that there are."""
        where, numbers = [], []
        for first, cache in live:
            data, scales = cache.addresses().data_ptr(), 0
            if cache.scales:
                scales = data + 8 * len(cache.data)
            for g, begin in enumerate(cache.begins):
                where.append([data, scales, g, len(cache.begins), cache.room, begin, cache.used, cache.used - begin])
                numbers.append(first + g)
        if not where:
            return torch.zeros_like(x)
        assert self._native is not None
        turn, whole = self._turns(1 + max(row[-1] for row in where)), len(where) == len(x)
        made = self._native((x if whole else x[numbers]).float(), where, turn, live[0][1].data[0].dtype).to(x.dtype)
        return made if whole else torch.zeros_like(x).index_copy_(0, torch.tensor(numbers), made)

    def _turns(self, positions: int) -> Tensor:
        """Cosines, then sines, [>= positions, D / H], kept for later steps."""
        if self._turn is None or len(self._turn) < positions:
            self._turn = torch.cat(self._rotation(torch.arange(2 * positions)[None]), -1)[0, 0].contiguous()
        return self._turn

    def _plain_step(
        self, x: Tensor, positions: Tensor, at: Tensor, live: Sequence[tuple[int, KeyValues]], reach: Sequence[int]
    ) -> Tensor:
        """Runs rows [R, D] at their positions [R, 1]; `at` [N] and `reach` are those of the live songs."""
        places = [_Place(row, cache, at[i : i + 1], reach[i]) for i, (row, cache) in enumerate(live)]
        rotation = self._rotation(positions)
        h = x[:, None].to(self.norm.weight.dtype)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, _Layer)
            h = layer.step(h, rotation, places, index)
        return self.norm(h)[:, 0]

    def _static_step(self, x: Tensor, live: Sequence[tuple[int, KeyValues]]) -> Tensor:
        """The same with tensors that stay where they are, and so one graph of a GPU for many steps of a block."""
        reach = [min(-(-(cache.used + 1) // _REACH) * _REACH, cache.room) for _, cache in live]
        block = [(row, id(cache), most) for (row, cache), most in zip(live, reach, strict=True)]
        at = torch.tensor([cache.used for _, cache in live], device=x.device)
        inputs, first = (x, self._positions(x, live), at), live[0][1]
        if first.replay is None or first.replay[0] != block:
            first.replay = block, Replay(lambda x, where, at: self._plain_step(x, where, at, live, reach), *inputs)
        return first.replay[1](*inputs)

    @staticmethod
    def _positions(x: Tensor, live: Sequence[tuple[int, KeyValues]]) -> Tensor:
        positions = torch.zeros(len(x), 1, dtype=torch.int64, device=x.device)
        for first, cache in live:
            positions[first : first + len(cache.first), 0] = cache.used - cache.first
        return positions

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [B, 1, S, D / H / 2] of positions [B, S]."""
        half = self.config.dim // self.config.heads // 2
        frequencies = self.config.rope_base ** (-torch.arange(half, device=positions.device) / half)
        angles = positions[:, None, :, None] * frequencies
        return angles.cos(), angles.sin()


class _Layer(nn.Module):
    def __init__(self, c: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.dropout = c.heads, c.dropout
        self.norm1 = nn.RMSNorm(c.dim, eps=1e-5)
        self.qkv = nn.Linear(c.dim, 3 * c.dim, bias=False)
        self.proj = nn.Linear(c.dim, c.dim, bias=False)
        self.norm2 = nn.RMSNorm(c.dim, eps=1e-5)
        self.gate_up = nn.Linear(c.dim, 2 * c.feed_forward, bias=False)
        self.down = nn.Linear(c.feed_forward, c.dim, bias=False)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        bias: Tensor,
        keep: tuple[Tensor, Tensor | None] | None = None,
        prefix: int = 0,
    ) -> Tensor:
        q, k, v = self._project(x, rotation)
        if keep is not None:
            _keep(torch.stack([k, v]), *keep)
        attended = _attend_apart(q, k, v, bias, prefix) if prefix else _attend(q, k, v, bias)
        return self._rest(x, attended.transpose(1, 2).flatten(2))

    def step(self, x: Tensor, rotation: tuple[Tensor, Tensor], places: Sequence[_Place], index: int) -> Tensor:
        q, k, v = self._project(x, rotation)
        out = torch.zeros_like(x)
        for row, cache, at, reach in places:
            rows, (keys, values) = slice(row, row + len(cache.first)), cache.data[index]
            keys.index_copy_(2, at, k[rows].to(keys.dtype))
            values.index_copy_(2, at, v[rows].to(values.dtype))
            scores = q[rows].to(keys.dtype) @ keys[:, :, :reach].transpose(-1, -2)
            time = torch.arange(reach, device=x.device)
            hidden = (time < cache.first[:, None, None, None]) | (time > at)
            weights = torch.softmax(scores.float().masked_fill(hidden, float("-inf")), -1).to(values.dtype)
            out[rows] = (weights @ values[:, :, :reach]).transpose(1, 2).flatten(2).to(out.dtype)
        return self._rest(x, out)

    def _project(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, S, D / H]
        return _rotate(q, rotation) * q.shape[-1] ** -0.5, _rotate(k, rotation), v

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + functional.dropout(self.proj(attended), self.dropout, self.training)
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + functional.dropout(self.down(functional.silu(gate) * up), self.dropout, self.training)


def _keep(pair: Tensor, data: Tensor, scales: Tensor | None) -> None:
    """Writes keys and values [2, G, H, P, D / H] at the start of a cache, in 8 bits where it has scales."""
    steps = pair.shape[3]
    if scales is not None:
        scale = (pair.float().abs().amax(-1) / 127).clamp(min=1e-12)
        scales[:, :, :, :steps] = scale
        pair = (pair / scale[..., None]).round()
    data[:, :, :, :steps] = pair


def _bias(x: Tensor, mask: Tensor) -> Tensor:
    """What is added to the scores of sequences under a mask [B, S], [B, 1, S, S]: -inf where a key is hidden."""
    steps = mask.shape[1]
    causal = torch.ones(steps, steps, dtype=torch.bool, device=x.device).tril()
    allowed = causal & mask[:, None, None, :]
    # A padded row would attend to nothing: let it see itself, its state is never used.
    allowed = allowed | torch.eye(steps, dtype=torch.bool, device=x.device)
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    return torch.zeros(allowed.shape, dtype=dtype, device=x.device).masked_fill_(~allowed, float("-inf"))


def _attend_apart(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, prefix: int) -> Tensor:
    """Attention of a prefix, and of equally long songs after it that see it and not each other.

    Queries, keys and values are [B, H, prefix + songs * S, D / H]; the bias [B, 1, prefix + S, prefix + S] is that of
    each song.
    """
    steps = bias.shape[-1] - prefix
    sizes = [prefix, *[steps] * ((q.shape[2] - prefix) // steps)]
    (first, *queries), (key, *keys), (value, *values) = (part.split(sizes, 2) for part in (q, k, v))
    out = [_attend(first, key, value, bias[:, :, :prefix])]
    for own, own_key, own_value in zip(queries, keys, values, strict=True):
        seen = torch.cat([key, own_key], 2), torch.cat([value, own_value], 2)
        out.append(_attend(own, *seen, bias[:, :, prefix:]))
    return torch.cat(out, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Causal attention [B, H, S, D / H] over keys [B, H, T, D / H] whose last S are the queries' own positions.

    The bias [B, 1, S, T] hides the future.

    Plain products: on CPU the fused kernel has a slow backward for such lengths. A block of queries leaves out the
    keys that come after it, which all of its rows would hide: about half of the work for long sequences.
    """
    steps, before, out = q.shape[2], k.shape[2] - q.shape[2], []
    for first in range(0, steps, _BLOCK):
        last = min(first + _BLOCK, steps)
        seen = before + last
        scores = q[:, :, first:last] @ k[:, :, :seen].transpose(-1, -2) + bias[:, :, first:last, :seen]
        out.append(torch.softmax(scores, -1) @ v[:, :, :seen])
    return torch.cat(out, 2)


_REACH = 256
"""A captured step reads so many positions, or twice, three times so many; then it is captured anew."""

_BLOCK = 160
"""Queries that attend together: small enough to leave out much of the future, large enough for fast products."""


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotation
    a, b = x.chunk(2, -1)  # rotate-half, as Llama stores it
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)

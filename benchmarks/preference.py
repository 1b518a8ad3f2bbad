"""Preference training: a DPO step beside TRL's, the reference kept or in the loop, the vocabulary loss in blocks.

    pip install -e '.[dev]'     # TRL; left out where it is not there
    python benchmarks/preference.py --threads 1 --out results/preference.json
    python benchmarks/preference.py --quick

Systems take turns in one process, step by step; medians and quartiles are shown. Parts:

- `step`: songkit's task with its own tower, songkit's task over the very Llama that TRL trains, and TRL's trainer; the
  same pairs, cached reference log-probabilities, AdamW, float32.
- `reference`: a step with the cached reference, and one that computes it with a frozen copy.
- `prefix`: a step that runs the prefix for each song of a pair, and one that runs it once for both; of songs, which are
  eight times as long as their prefix, and of songs as long as it.
- `vocabulary`: time and peak memory of log-probabilities in blocks, beside `cross_entropy`, forward and backward.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from common import finish
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from songkit.components.configs import TransformerConfig
from songkit.components.preference import DPO
from songkit.components.preference_configs import DPOConfig, TrainPreferenceConfig
from songkit.components.transformer import Transformer
from songkit.interfaces import Conditioner
from songkit.pairs import Candidate, Pair
from songkit.patterns import parallel
from songkit.request import SongRequest
from songkit.settings import OptimizerSettings, TrainerSettings
from songkit.stream_planner import StreamPlanner
from songkit.tasks.preference import TrainPreference
from songkit.types import Conditions, Stream, TokenLayout
from songkit.vocabulary import id_scores

LAYERS, WIDTH, HEADS, FEED_FORWARD = 4, 256, 4, 704
PAIRS = 2
PARTS = ("step", "reference", "prefix", "vocabulary")
SHOWN = {
    "seconds": "seconds",
    "quartiles from": "low",
    "to": "high",
    "x the first": "times_the_first",
    "of the processor": "processor",
    "x the first's": "processor_times_the_first",
    "turn by turn": "ratio",
    "its quartiles from": "ratio_low",
    "up to": "ratio_high",
    "peak MB": "peak_mb",
    "GFLOP": "gflop",
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is trained on."""

    vocabulary: int = 16384
    prefix: int = 64
    frames: int = 512


class Pairs:
    """Pairs of random songs of one length, each of a request of its own."""

    def __init__(self, sizes: Sizes, root: Path) -> None:
        rng = np.random.default_rng(0)
        self.root, self.layout = root, TokenLayout(25.0, (Stream("mix", 0, sizes.vocabulary),))
        self.ids = rng.integers(0, sizes.vocabulary, (PAIRS, 2, 1, sizes.frames))
        self.prompts = rng.integers(0, sizes.vocabulary, (PAIRS, sizes.prefix))
        self.frames = np.full((PAIRS, 2), sizes.frames)

    def __len__(self) -> int:
        return PAIRS

    def pair(self, index: int) -> Pair:
        """Returns a pair."""
        songs = [
            Candidate(candidate=k, seed=0, ids=self.ids[index, k], layout=self.layout, cursor=None, finished=True)
            for k in range(2)
        ]
        request = SongRequest(id=str(index), sections=())
        return Pair(request=request, chosen=songs[0], rejected=songs[1], strategy="random", margin=1.0)


class Prompts(Conditioner):
    """The prompt tokens of a request, embedded."""

    def __init__(self, prompts: np.ndarray, vocabulary: int) -> None:
        super().__init__()
        self.width, self.prompts = WIDTH, torch.from_numpy(prompts)
        self.table = nn.Embedding(vocabulary, WIDTH)

    def check(self, request: SongRequest) -> None:
        """Accepts every request."""

    def forward(self, requests: Any, **_: Any) -> Conditions:
        """Embeds the prompts of B requests."""
        prefix = self.table(self.prompts[[int(request.id) for request in requests]])
        return Conditions(prefix, torch.ones(prefix.shape[:2], dtype=torch.bool))


class LlamaTower(nn.Module):
    """Hugging Face's Llama as a backbone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.width = model, WIDTH

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Runs whole sequences [B, S, D]."""
        return self.model(inputs_embeds=x, attention_mask=mask.long(), use_cache=False).last_hidden_state


def songkit_task(pairs: Pairs, tower: Any, share_prefix: float | None = None) -> TrainPreference:
    planner = StreamPlanner(pairs.layout, parallel(1), tower)
    task = TrainPreference(
        TrainPreferenceConfig(share_prefix=share_prefix),
        planner=planner,
        conditioner=Prompts(pairs.prompts, pairs.layout.streams[0].size),
        objective=DPO(DPOConfig()),
        data=pairs,  # type: ignore[arg-type]
        settings=TrainerSettings(max_steps=10**6, batch_size=PAIRS, accelerator="cpu"),
        optimizer=OptimizerSettings(lr=1e-5, warmup_steps=0),
        seed=0,
    )
    optimizers = task.configure_optimizers()
    task.optimizers = lambda: optimizers[0]
    task.manual_backward = lambda loss: loss.backward()
    task.prepare_reference()
    return task


def songkit_step(
    pairs: Pairs, tower: Any, *, cached: bool = True, share_prefix: float | None = None
) -> Callable[[], None]:
    """Returns a step of songkit's task; without the cache a frozen copy says what the reference says, each time."""
    task = songkit_task(pairs, tower, share_prefix)
    batch, generator = task.batch(0), torch.Generator()
    frozen = copy.deepcopy((task.planner, task.conditioner)).__iter__() if not cached else None
    if frozen is not None:
        reference = copy.copy(task)
        reference._modules = dict(task._modules) | dict(zip(("planner", "conditioner"), frozen, strict=True))

    def step() -> None:
        if not cached:
            found = reference._reference("data", batch.pairs.numpy())
            task._tables["data"].sums[batch.pairs] = found
        task.update(batch, generator)

    return step


def llama(sizes: Sizes) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=sizes.vocabulary + 1,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=FEED_FORWARD,
        max_position_embeddings=sizes.prefix + sizes.frames + 1,
    )
    return LlamaForCausalLM(config)


def trl_step(pairs: Pairs, sizes: Sizes, folder: str) -> Callable[[], None]:
    """Returns a step of TRL's trainer: its forward and backward pass with cached log-probabilities, and its AdamW."""
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast
    from trl.trainer.dpo_config import DPOConfig as TrlConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    words = Tokenizer(WordLevel({"a": 0, "b": 1, "<end>": 2}, unk_token="b"))
    words.pre_tokenizer = Whitespace()
    trainer = DPOTrainer(
        model=llama(sizes),
        args=TrlConfig(
            output_dir=folder,
            per_device_train_batch_size=PAIRS,
            precompute_ref_log_probs=True,
            gradient_checkpointing=False,
            bf16=False,
            learning_rate=1e-5,
            max_length=None,
            use_cpu=True,
            report_to=[],
        ),
        # It wants text to start with; the steps below are given pairs of ids, as its loader would make them.
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": " a b", "rejected": " b a"}]),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>"),
    )
    end = [sizes.vocabulary]
    examples = [
        {
            "prompt_ids": pairs.prompts[i].tolist(),
            "chosen_ids": pairs.ids[i, 0, 0].tolist() + end,
            "rejected_ids": pairs.ids[i, 1, 0].tolist() + end,
        }
        for i in range(PAIRS)
    ]
    batch = trainer.data_collator(examples)
    with torch.no_grad():
        chosen, rejected = trainer.compute_ref_log_probs(trainer.model, batch)
    batch |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    trainer.current_gradient_accumulation_steps = 1  # what its loop would set
    optimizer = trainer.create_optimizer()
    trainer.model.train()

    def step() -> None:
        optimizer.zero_grad()
        trainer.training_step(trainer.model, dict(batch))
        nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        optimizer.step()

    return step


def steps(sizes: Sizes, rounds: int, with_trl: bool) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        pairs = Pairs(sizes, Path(folder))
        systems = {"songkit": songkit_step(pairs, tower())}
        if with_trl:
            systems["songkit over TRL's model"] = songkit_step(pairs, LlamaTower(llama(sizes).model))
            systems["TRL"] = trl_step(pairs, sizes, folder)
        rows = timed(systems, rounds)
    for row in rows:
        row |= {"part": "step", **dataclasses.asdict(sizes), "pairs": PAIRS}
    return rows


def references(sizes: Sizes, rounds: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        pairs = Pairs(sizes, Path(folder))
        systems = {
            "reference cached": songkit_step(pairs, tower()),
            "reference in the loop": songkit_step(pairs, tower(), cached=False),
        }
        rows = timed(systems, rounds)
    return [row | {"part": "reference", **dataclasses.asdict(sizes)} for row in rows]


def prefixes(all_sizes: list[Sizes], rounds: int) -> list[dict[str, Any]]:
    rows = []
    for sizes in all_sizes:
        with tempfile.TemporaryDirectory() as folder:
            pairs = Pairs(sizes, Path(folder))
            systems = {
                f"{sizes.prefix} + {sizes.frames}, prefix {name}": songkit_step(pairs, tower(), share_prefix=share)
                for name, share in {"twice": None, "once": 0.0}.items()
            }
            for row in timed(systems, rounds):
                with FlopCounterMode(display=False) as counter:
                    systems[row["system"]]()
                counted = {"gflop": counter.get_total_flops() / 1e9}
                rows.append(row | {"part": "prefix", **dataclasses.asdict(sizes), **counted})
    return rows


def vocabulary(quick: bool) -> list[dict[str, Any]]:
    """Forward and backward of the mean negative log-likelihood, of 8,192 positions and 16,384 ids."""
    positions, width, ids = (2048, 64, 16384) if quick else (8192, 512, 16384)
    torch.manual_seed(0)
    states = torch.randn(positions, width, requires_grad=True)
    table = (0.02 * torch.randn(ids, width)).requires_grad_()
    wanted = torch.randint(ids, (positions,))
    made: dict[str, Callable[[], Tensor]] = {
        "cross_entropy": lambda: functional.cross_entropy(functional.linear(states, table), wanted),
        "blocks": lambda: -id_scores(states, table, wanted)[0].mean(),
    }
    rows = []
    for turn in range(1 if quick else 3):
        for name, loss_of in made.items():
            states.grad = table.grad = None
            before = reset_peak()
            began = time.perf_counter()
            loss = loss_of()
            loss.backward()
            seconds = time.perf_counter() - began
            norm = float(table.grad.norm())
            memory, value = peak() - before, float(loss.detach())
            row = {"part": "vocabulary", "system": name, "turn": turn, "seconds": seconds, "peak_mb": memory}
            rows.append(row | {"loss": value, "gradient_norm": norm})
            print(f"{name:>24}: {seconds:6.2f} s, {memory:7.0f} MB, loss {value:.6f}, gradient {norm:.6f}")
    return rows


def tower() -> Transformer:
    torch.manual_seed(0)
    return Transformer(TransformerConfig(dim=WIDTH, layers=LAYERS, heads=HEADS, feed_forward=FEED_FORWARD))


def timed(systems: dict[str, Callable[[], None]], rounds: int) -> list[dict[str, Any]]:
    """Times the systems in turn: by the wall clock, and by the processor, which other work disturbs less."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in systems}
    for _ in range(rounds + 1):
        for name, step in systems.items():
            began = time.perf_counter(), time.process_time()
            step()
            taken[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    rows: list[dict[str, Any]] = []
    for name, turns in taken.items():
        seconds, busy = zip(*turns[1:], strict=True)
        low, middle, high = quartiles(seconds)
        rows.append({"system": name, "seconds": middle, "low": low, "high": high, "fastest": min(seconds)})
        rows[-1]["processor"] = statistics.median(busy)
        if name != rows[0]["system"]:
            rows[-1]["times_the_first"] = middle / rows[0]["seconds"]
            rows[-1]["processor_times_the_first"] = rows[-1]["processor"] / rows[0]["processor"]
            turn_by_turn = [own[1] / first[1] for own, first in zip(turns, taken[rows[0]["system"]], strict=True)]
            rows[-1]["ratio_low"], rows[-1]["ratio"], rows[-1]["ratio_high"] = quartiles(turn_by_turn[1:])
        print(f"{name:>24}: {1000 * middle:8.1f} ms a step ({1000 * low:.1f} to {1000 * high:.1f})")
    return rows


def quartiles(values: Sequence[float]) -> list[float]:
    return statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3


def reset_peak() -> float:
    """Starts counting the peak of this process's memory anew; returns what it uses now, in MB (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1000


def shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 100 else f"{value:.0f}"


def trl_is_there() -> bool:
    """Whether TRL can be imported; transformers imports torchaudio, which may not load beside a PyTorch for CPUs."""
    empty = ModuleType("torchaudio")
    empty.__spec__ = ModuleSpec("torchaudio", None)
    sys.modules.setdefault("torchaudio", empty)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import trl.trainer.dpo_trainer  # noqa: F401
    except ImportError as error:
        print(f"TRL is left out: {error}")
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15, help="steps of each system")
    parser.add_argument("--only", nargs="+", choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: whether it runs")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sizes = Sizes(vocabulary=1024, prefix=16, frames=64) if args.quick else Sizes()
    rounds = 2 if args.quick else args.rounds
    parts = args.only or PARTS
    rows: list[dict[str, Any]] = []
    if "step" in parts:
        rows += steps(sizes, rounds, trl_is_there())
    if "reference" in parts:
        rows += references(sizes, rounds)
    if "prefix" in parts:
        both = dataclasses.replace(sizes, prefix=sizes.frames // 2, frames=sizes.frames // 2)
        rows += prefixes([sizes, both], rounds)
    if "vocabulary" in parts:
        rows += vocabulary(args.quick)
    table = [[row["part"], row["system"], *(shown(row.get(name)) for name in SHOWN.values())] for row in rows]
    record = {"rows": rows, "command": sys.argv}
    finish("Preference training", ["part", "system", *SHOWN], table, out=args.out, runs=rounds, record=record)


if __name__ == "__main__":
    main()

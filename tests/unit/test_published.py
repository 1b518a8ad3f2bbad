"""Weights files of other packages, and packages that import more than is used of them."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from songkit.build import build
from songkit.errors import CheckpointError, PluginError
from songkit.imports import import_without
from songkit.published import fold_weight_norm, load_published, remove_weight_norm


class Foreign(nn.Module):
    """Has one weight, which its authors publish under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(2, 1, bias=False)

    def published_state(self, content: Any) -> Mapping[str, Tensor]:
        if "w" not in content:
            raise CheckpointError("expected a mapping with `w`")
        return {"model.weight": content["w"]}


class Touches:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_published_file_fills_the_module(tmp_path: Path) -> None:
    module = Foreign()
    torch.save({"w": torch.tensor([[1.0, 2.0]])}, tmp_path / "w.th")
    load_published(tmp_path / "w.th", module)
    assert module.model.weight.tolist() == [[1.0, 2.0]]


def test_code_in_a_published_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1, 2), "more": Touches(tmp_path / "touched")}, tmp_path / "w.th")
    with pytest.raises(CheckpointError, match=r"w\.th cannot be read as tensors and plain values"):
        load_published(tmp_path / "w.th", Foreign())
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "cannot be read"), (b"PK\x03\x04 not a zip", "cannot be read"), (b"\x80\x02]q\x00", "cannot be read")],
)
def test_a_damaged_file_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "w.th").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_published(tmp_path / "w.th", Foreign())


def test_a_digest_in_the_name_is_verified(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1, 2)}, tmp_path / "plain.th")
    content = (tmp_path / "plain.th").read_bytes()
    right = tmp_path / f"w-{hashlib.sha256(content).hexdigest()[:8]}.th"
    right.write_bytes(content)
    load_published(right, Foreign())
    wrong = tmp_path / "w-00000000.th"
    wrong.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w-00000000\.th is damaged: its SHA-256"):
        load_published(wrong, Foreign())


def test_what_does_not_fit_leaves_the_module_alone(tmp_path: Path) -> None:
    module = Foreign()
    before = module.model.weight.clone()
    torch.save({"w": torch.zeros(3, 2)}, tmp_path / "w.th")
    with pytest.raises(CheckpointError, match="of another shape"):
        load_published(tmp_path / "w.th", module)
    torch.save({"v": 1}, tmp_path / "w.th")
    with pytest.raises(CheckpointError, match=r"w\.th: expected a mapping with `w`"):
        load_published(tmp_path / "w.th", module)
    with pytest.raises(CheckpointError, match="songkit fetches no weights"):
        load_published(tmp_path / "none.th", module)
    assert torch.equal(module.model.weight, before)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weight_norm_is_folded_to_the_bit() -> None:
    torch.manual_seed(0)
    normed = nn.Sequential(nn.utils.weight_norm(nn.Conv1d(3, 4, 5)), nn.utils.weight_norm(nn.ConvTranspose1d(4, 2, 3)))
    x = torch.randn(1, 3, 20)
    state, expected = {name: tensor.clone() for name, tensor in normed.state_dict().items()}, normed(x)
    plain = nn.Sequential(nn.Conv1d(3, 4, 5), nn.ConvTranspose1d(4, 2, 3))
    plain.load_state_dict(fold_weight_norm(state))
    assert torch.equal(plain(x), expected)
    remove_weight_norm(normed)
    assert torch.equal(normed(x), expected)
    assert set(normed.state_dict()) == set(plain.state_dict())
    with pytest.raises(CheckpointError, match=r"'0\.weight_g' and no '0\.weight_v'"):
        fold_weight_norm({"0.weight_g": torch.ones(1)})


def test_a_recipe_names_a_published_file(tmp_path: Path) -> None:
    from songkit.recipe import load
    from songkit.registry import Registry

    (tmp_path / "part.py").write_text(
        "from dataclasses import dataclass\n"
        "import torch\n"
        "from songkit.plugin import Component, hookimpl\n"
        "@dataclass(kw_only=True)\n"
        "class Config:\n"
        '    """No options."""\n'
        "class Foreign(torch.nn.Linear):\n"
        "    def published_state(self, content):\n"
        "        return {'weight': content['w']}\n"
        "def make(config):\n"
        "    return Foreign(2, 1, bias=False)\n"
        "@hookimpl\n"
        "def songkit_components():\n"
        "    return [Component(kind='codec', name='foreign', config=Config, factory=f'{__name__}:make',\n"
        "                      example=Config())]\n"
    )
    (tmp_path / "published").mkdir()  # beside weights a local plugin would not be run
    torch.save({"w": torch.tensor([[3.0, 4.0]])}, tmp_path / "published" / "w.pth")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("format: 1\nplugins: [./part.py]\ncodec: {use: local/foreign, weights: ./published/w.pth}\n")
    built = build(load(str(recipe), registry=Registry.discover()).roles["codec"], require_weights=True)
    assert built.weight.tolist() == [[3.0, 4.0]]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`outer` imports `broken`, whose submodule is loaded before it fails, and `whole`, which works."""
    (tmp_path / "broken_pkg").mkdir()
    (tmp_path / "broken_pkg" / "__init__.py").write_text("from broken_pkg import part\nraise OSError('lib.so: no')\n")
    (tmp_path / "broken_pkg" / "part.py").write_text("")
    (tmp_path / "whole_mod.py").write_text("value = 7\n")
    (tmp_path / "outer_mod.py").write_text(
        "import broken_pkg\nimport whole_mod\nfrom broken_pkg import Writer\n"
        "def use():\n    return broken_pkg.transforms.Resample(1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("outer_mod", "whole_mod", "broken_pkg", "broken_pkg.part"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("packages")
def test_a_stand_in_lasts_as_long_as_the_import() -> None:
    outer = import_without("outer_mod", ["broken_pkg", "whole_mod"])
    assert outer.whole_mod.value == 7  # what can be imported is the real one
    assert not [name for name in sys.modules if name.startswith("broken_pkg")]
    with pytest.raises(OSError, match=r"lib\.so: no"):
        importlib.import_module("broken_pkg")
    with pytest.raises(PluginError, match=r"broken_pkg\.transforms\.Resample cannot be used here: lib\.so: no"):
        outer.use()
    assert import_without("outer_mod", ["broken_pkg"]) is outer


@pytest.mark.usefixtures("packages")
def test_a_package_that_fails_all_the_same_is_told() -> None:
    with pytest.raises(PluginError, match=r"the package 'outer_mod' cannot be imported: OSError: lib\.so: no"):
        import_without("outer_mod", [])
    with pytest.raises(PluginError, match="no_such_package"):
        import_without("no_such_package", ["broken_pkg"])
    assert "broken_pkg" not in sys.modules

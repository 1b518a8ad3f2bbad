"""The tutorial that writes a codec: its files are written, its commands run, in the order of the page."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import soundfile

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "write-a-codec.md"
BLOCK = re.compile(r"^```(\w+)(?: title=\"(.+?)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_tutorial_goes_from_an_empty_folder_to_a_codec_in_a_recipe(tmp_path):
    python = environment(tmp_path / "venv")
    folder = tmp_path / "empty"
    folder.mkdir()
    written, told = [], {}
    for language, title, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "sh":
            for line in text.splitlines():
                told[line] = run(python, line, folder, fails=title == "fails")
        else:
            assert title, f"this block of {language} has no file to be written to:\n{text}"
            (folder / title).write_text(text, encoding="utf-8")
            written.append(title)

    assert len(written) == 6
    assert " 0 failed, 0 skipped" in told["songkit plugins check whistle"]
    assert "Did you mean 'levels'?" in told["songkit recipes validate whistle.yaml codec.levles=4"]
    assert "torch.Size([1, 1, 113]) ids of 25 Hz [mix.0×384]" in told["python listen.py"]
    whistled, rate = soundfile.read(folder / "whistled.wav")
    assert [pitch(whistled[i * rate // 2 :][: rate // 4], rate) for i in range(9)] == [
        60,
        62,
        64,
        65,
        67,
        67,
        69,
        69,
        67,
    ]


def environment(venv):
    """Makes an environment that has songkit and what it needs from this one, and returns its python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    [site] = venv.glob("lib/python*/site-packages")
    (site / "songkit.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    return venv / "bin" / "python"


def run(python, line, folder, fails):
    """Runs a line of the page; packages are built and installed without a network."""
    program, *words = shlex.split(line)
    command = {
        "songkit": [python, "-m", "songkit", *words],
        "python": [python, *words],
        "pip": [sys.executable, "-m", "pip", "--python", python, *words, "--no-index", "--no-deps"],
    }[program]
    if program == "pip":
        # An editable install needs one more package for its build: a plain one gives the same plugin.
        command = [*[word for word in command if word != "-e"], "--no-build-isolation", "-q"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode != 0) == fails, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def pitch(wave, rate):
    """Returns the MIDI pitch of the strongest frequency."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 1 << 16))
    return round(69 + 12 * np.log2(spectrum.argmax() * rate / (1 << 16) / 440))

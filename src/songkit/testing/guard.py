"""What a component must leave alone: the network, and the state of the process that is everybody's."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import random
import socket
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import torch

__all__ = ["Attempts", "guarded", "process_state"]


class Attempts(list[str]):
    """The connections that were tried, each as text."""


def process_state() -> dict[str, str]:
    """Returns what has to be the same before and after a component is used, by name."""
    return {
        "torch's random state": _digest(torch.get_rng_state().numpy().tobytes()),
        "numpy's random state": _digest(pickle.dumps(np.random.get_state())),
        "python's random state": _digest(pickle.dumps(random.getstate())),
        "default dtype": str(torch.get_default_dtype()),
        "threads": str(torch.get_num_threads()),
        "gradients": f"enabled: {torch.is_grad_enabled()}",
        "environment": str(sorted(os.environ.items())),
        "working directory": str(os.getcwd()),
    }


@contextlib.contextmanager
def guarded() -> Iterator[Attempts]:
    """Refuses connections, and puts the process back as it was; yields the connections that were tried.

    Sockets of other processes are not seen. Those between processes of this machine (AF_UNIX) are let through.
    """
    attempts = Attempts()
    with _no_network(attempts), _kept_state():
        yield attempts


@contextlib.contextmanager
def _no_network(attempts: Attempts) -> Iterator[None]:
    def refuse(target: Any) -> NoReturn:
        attempts.append(str(target))
        raise PermissionError(f"a component tried to reach {target}; components use no network: take files as options")

    names = ("connect", "connect_ex", "sendto")
    kept = {name: getattr(socket.socket, name) for name in names}

    def guard(name: str) -> Any:
        def call(self: socket.socket, *arguments: Any) -> Any:
            if self.family == getattr(socket, "AF_UNIX", None):
                return kept[name](self, *arguments)
            return refuse(arguments[-1] if name == "sendto" else arguments[0])

        return call

    resolve = socket.getaddrinfo
    try:
        for name in names:
            setattr(socket.socket, name, guard(name))
        socket.getaddrinfo = lambda host, *_, **__: refuse(host)
        yield
    finally:
        socket.getaddrinfo = resolve
        for name, method in kept.items():
            setattr(socket.socket, name, method)


@contextlib.contextmanager
def _kept_state() -> Iterator[None]:
    drawn = torch.get_rng_state(), np.random.get_state(), random.getstate()
    dtype, threads, gradients = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    environment, folder = dict(os.environ), os.getcwd()
    try:
        yield
    finally:
        torch.set_rng_state(drawn[0])
        np.random.set_state(drawn[1])
        random.setstate(drawn[2])
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_grad_enabled(gradients)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        os.chdir(folder)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

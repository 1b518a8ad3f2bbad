"""Audio to codes, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from songkit.errors import LayoutError
from songkit.types import Audio, Codes, TokenLayout

__all__ = ["Codec", "Tokenizer"]


class Tokenizer(nn.Module, ABC):
    """Turns audio into codes.

    The declared layout is a promise: ids lie within each stream's size, and T samples give
    `ceil(T * layout.frame_rate / sample_rate)` frames.
    """

    layout: TokenLayout
    sample_rate: int
    """Samples per second that `encode` expects."""
    channels: int
    """Channels that `encode` expects."""
    tracks: tuple[str, ...]
    """The tracks that `encode` needs."""

    @abstractmethod
    def encode(self, audio: Audio) -> Codes:
        """Turns tracks [B, C, T] at `sample_rate` into ids [B, K, F].

        A song's codes do not depend on the padding behind it or on the other songs of the batch.
        """

    def encoding_module(self) -> nn.Module:
        """Returns the module whose weights decide the codes; kept codes are valid as long as they are the same.

        All of it, unless a codec has parts that `encode` does not use.
        """
        return self


class Codec(Tokenizer, ABC):
    """A tokenizer that can also make audio from codes."""

    decoded_tracks: tuple[str, ...]
    """The tracks that `decode` makes of a whole layout."""

    def decodes(self, layout: TokenLayout) -> tuple[str, ...]:
        """Returns the tracks that `decode` makes of the codes of some tracks: by default the same tracks.

        Raises:
            LayoutError: If it cannot decode such codes; the message says why.
        """
        made = tuple(track for track in layout.tracks if track in self.decoded_tracks)
        if not made:
            raise LayoutError(
                f"tracks: the codec makes {', '.join(self.decoded_tracks)} of {self.layout}, and nothing of {layout}"
            )
        return made

    @abstractmethod
    def decode(
        self, codes: Codes, *, seeds: Sequence[int] = (), progress: Callable[[float], None] | None = None
    ) -> Audio:
        """Turns ids [B, K, F] into tracks [B, C, T], with T within one frame of F / frame rate.

        Args:
            codes: Ids of this codec's layout, or of some of its tracks.
            seeds: One for each song, for codecs that sample (all 0 if empty). A song's samples depend on its own
                ids and seed only.
            progress: Called with the seconds of audio done, summed over songs and tracks.
        """

    def lighten(self) -> None:
        """Makes decoding cheaper from now on by products in bfloat16, where that is not heard; by default nowhere."""

    def stream(
        self, parts: Iterable[Codes], *, layout: TokenLayout, seed: int = 0, prompt: Audio | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """Decodes one song whose codes [1, K, F] arrive in parts; by default when they are complete.

        Args:
            parts: In order; not empty.
            layout: Of the parts.
            seed: As for `decode`.
            prompt: Audio of some tracks at this codec's rate, after which the song goes on; no part of the result.
                Codecs whose frames know nothing of each other need not read it.

        Yields:
            Pieces [1, C, T] of every track that `decode` makes, as soon as they are done: together its waveform.
        """
        arrived = list(parts)
        ids = torch.cat([part.ids for part in arrived], 2)
        whole = Codes(ids, torch.tensor([ids.shape[2]], device=ids.device), layout)
        audio = self.decode(whole, seeds=[seed])
        yield {name: track[:, :, : int(audio.lengths[0])] for name, track in audio.tracks.items()}

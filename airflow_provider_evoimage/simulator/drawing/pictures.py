"""What a result shows, in words; `images.py` draws it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """A reference image as the result shows it.

    :param name: the last part of its URL, after the host if that is another one.
    :param thumbnail: a small image file of it; None when only its name is known.
    """

    name: str
    thumbnail: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One result image.

    :param index: position among the images of its generation, from 0.
    :param count: how many images were requested.
    :param file_format: png, jpeg or webp.
    """

    prompt: str
    model: str
    quality: str
    width: int
    height: int
    index: int
    count: int
    file_format: str = "png"
    transparent: bool = False
    references: tuple[Reference, ...] = ()

    @property
    def caption(self) -> str:
        """The small line below the prompt."""
        size = f"{self.width}x{self.height}"
        return f"{self.model} · {self.quality} · {size} · image {self.index + 1} of {self.count}"

"""Tells what stands under the URLs which this simulator itself has given out."""

import io
from urllib.parse import unquote, urlsplit

from airflow_provider_evoimage.simulator.drawing.images import draw
from airflow_provider_evoimage.simulator.service.orders import is_loopback_host
from airflow_provider_evoimage.simulator.service.references import Opener
from airflow_provider_evoimage.simulator.service.state import SimulatorState
from airflow_provider_evoimage.simulator.service.uploads import DOWNLOAD_PATH, FILES_PATH


def is_own(state: SimulatorState, url: str) -> bool:
    """Whether a URL leads to this simulator, by any name of this machine."""
    parts, own = urlsplit(url), urlsplit(state.base_url)
    return is_loopback_host(parts.hostname) and (parts.scheme, parts.port) == (own.scheme, own.port)


def own_content(state: SimulatorState, url: str) -> Opener | None:
    """Return how to read what stands under a URL of this simulator; None for another host's.

    :raises LookupError: when nothing stands there any more, or nothing ever did.
    """
    if not is_own(state, url):
        return None
    path = unquote(urlsplit(url).path)
    upload = state.downloadable(path.removeprefix(f"{DOWNLOAD_PATH}/"))
    path = path.removeprefix(f"{FILES_PATH}/")
    upload = upload or state.upload(path)
    if upload is not None:
        location = upload.location
        return lambda: location.open("rb")
    found = state.file(path)
    if found is None or state.is_expired(found[0]):
        raise LookupError(url)
    picture = found[0].picture(found[1])
    return lambda: io.BytesIO(draw(picture))

"""Fingerprints and idempotency keys that an earlier release computed.

A task that retries after an upgrade asks again under the key of its first try. With another key it would pay twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_evoimage.batch.items import build_items
from airflow_provider_evoimage.batch.source import Entry
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.references.files import StoredReference
from airflow_provider_evoimage.references.uploads import UploadNames
from airflow_provider_evoimage.submission.identity import RequestIdentity, fingerprint
from airflow_provider_evoimage.submission.mapped_item import MappedItem, mapped_item
from airflow_provider_evoimage.submission.submit import identity_of

PLAIN: dict[str, Any] = {
    "model": "gpt-image-1.5",
    "prompt": "a red fox",
    "size": "1024x1024",
    "quality": "low",
    "n": 1,
}
IDENTITY: dict[str, Any] = {
    "namespace": "",
    "dag_id": "campaign",
    "run_id": "scheduled__2026-05-01T00:00:00+00:00",
    "task_id": "draw",
    "epoch": 2,
}
SHOE = "https://bucket.example.com/photos/shoe.png"
BY_CONTENT = f"sha256:{'a' * 64}"
MASK_BY_CONTENT = f"sha256:{'b' * 64}"
SIGNED_BY_AWS = (
    "https://me:pa55@bucket.s3.amazonaws.com/shoe.png?versionId=7&X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=AKIA%2F20260501&X-Amz-Date=20260501T000000Z&X-Amz-Expires=3600&X-Amz-Signature=abc#top"
)
SIGNED_BY_AZURE = (
    "https://account.blob.core.windows.net/photos/shoe.png?sv=2024-11-04&se=2026-05-02&sr=b&sp=r&sig=abc%3D"
)
SIGNED_BY_GOOGLE = (
    "https://storage.googleapis.com/photos/shoe.png?Expires=1&GoogleAccessId=robot&Signature=a%2Bb"
)
SIGNED_BY_TENCENT = "https://photos.cos.example.com/shoe.png?q-sign-algorithm=sha1&q-ak=A&q-signature=abc&v=1"


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """A request, told as changes of PLAIN and of IDENTITY, and what an earlier release made of it."""

    request: dict[str, Any] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)
    fingerprint: str
    key: str


PINNED = {
    "plain": Pinned(
        fingerprint="cd91c04a9a1354a361a0915e3fc602af739f7c0d4678bea458e6dece89175f15",
        key="airflow-evoimage-eef8ac4eeab3d5b6a5f37f928813b9ab1492007a83fcf92a8253787a639677ce",
    ),
    "quality left to the documented default": Pinned(
        request={"quality": None},
        fingerprint="7782274b12820fa073f142675172425a0c73817cb2023caa4942ef5c2f2613ca",
        key="airflow-evoimage-56a8f768c6fbdd717d434b1887a9877ba88bdcb2e7e8185cfd1a13fda7670357",
    ),
    "other model": Pinned(
        request={"model": "gpt-image-2", "quality": "high"},
        fingerprint="b0719e40c3a6d66b0954832eb714923f9f7e925d745e10dac185a8db5cca643d",
        key="airflow-evoimage-98178b9ce57bcc79d546d90a0f6aab782bb7b2e101daa02f62348809d824e664",
    ),
    "model that this release does not know": Pinned(
        request={"model": "some-new-model", "size": "2K"},
        fingerprint="4943555b316ac6cb997c145d2961122ec0b2961eb961e31bfe4b0041d32922a4",
        key="airflow-evoimage-c496915cf57a1603c1b3f8ba712e4af0358aee9a342ce01b3f1cfeb39e9d53a7",
    ),
    "other size": Pinned(
        request={"size": "1024x1536"},
        fingerprint="9a3151a25994e6af80d3f41cab064e3e791f868772779edc8961ed13c3dcf146",
        key="airflow-evoimage-ce0a66efb9ab87d1f3994a79ec7eaf8c71befb936e9fb2de5126db1a18039f8e",
    ),
    "other quality": Pinned(
        request={"quality": "high"},
        fingerprint="7782274b12820fa073f142675172425a0c73817cb2023caa4942ef5c2f2613ca",
        key="airflow-evoimage-56a8f768c6fbdd717d434b1887a9877ba88bdcb2e7e8185cfd1a13fda7670357",
    ),
    "more images": Pinned(
        request={"n": 3},
        fingerprint="3e72f2b8c3c489e4517d1fdfac70722622b713dc9cfbc24eb212f67ae17650cb",
        key="airflow-evoimage-12fd0f260ecbf4a6e3e386285212a42c143adc7eafcc37c07d583dfc9a359cc8",
    ),
    "prompt of other letters": Pinned(
        request={"prompt": "ein größerer Fuchs 🦊 — 狐"},
        fingerprint="77c18710cf4f75ea479ccb086b122713d05e569ae284652d0b5d13d78387ec10",
        key="airflow-evoimage-96d546865b1818873c6878ad67130ee3570838d164726c94d76a671c2cc461ca",
    ),
    "prompt that looks like a signed url": Pinned(
        request={"prompt": f"{SHOE}?X-Amz-Signature=abc as a poster"},
        fingerprint="afedc840eb44d21536af798b665450c710f8aa8e0a71986df31d13d8c791f760",
        key="airflow-evoimage-f5cdde918b4f38d21e45898739c7a2451e4a9096484e3b0925eb79377901897c",
    ),
    "references by url": Pinned(
        request={"image_urls": [SHOE, f"{SHOE}?versionId=7"]},
        fingerprint="768ca0f17729a6985b4093d2d2d8a5a5482e1c69694acf79fbac292362fa7100",
        key="airflow-evoimage-4046fda5452b7bf86cd9f240c54cef4def7ecb7f86cca609156f20153aeaaee3",
    ),
    "reference signed by AWS": Pinned(
        request={"image_urls": [SIGNED_BY_AWS]},
        fingerprint="636d588f93297a1370b1be6167800fe0339ccdd53a4249397f32f42a5f843748",
        key="airflow-evoimage-7cbd06a097f068c7b801c68d703e2faeb420af32f5edb0250afae659da0048f7",
    ),
    "reference signed by Azure": Pinned(
        request={"image_urls": [SIGNED_BY_AZURE]},
        fingerprint="63c1681ea67da5af859b64ae55c4482747cf12218657b1bbc503b964468e8012",
        key="airflow-evoimage-33044a50d0a3f23a764f7e9c098283ef18898e00145fd2ec74216457c888499c",
    ),
    "reference signed by Google": Pinned(
        request={"image_urls": [SIGNED_BY_GOOGLE]},
        fingerprint="6ae1f13090858c774e162b079626e396d18b726c9eef09a0aaf8fe646b772c27",
        key="airflow-evoimage-cd6b72d6722a481cf8149496806e2d9046a4adf189a91d475351867064b4f63d",
    ),
    "reference signed by Tencent": Pinned(
        request={"image_urls": [SIGNED_BY_TENCENT]},
        fingerprint="070bdfe44a09bebf91a3c50a10d8369570df4abaaf3d1a1293e9887cf683da73",
        key="airflow-evoimage-b1d16f8b639300ceed3fd54ccccc1b394556634c343b5b477fc22a81718bc8b9",
    ),
    "reference behind a token": Pinned(
        request={"image_urls": ["https://shop.example.com/get?token=secret"]},
        fingerprint="f49a2ea0192a04c6b511cd8532261034cb1af629c3bcefad3a56e032154efa49",
        key="airflow-evoimage-b1adfa0003e925ab9c6c3fb46c624a5df614cd23fd643cc992a4fb40512cedc8",
    ),
    "reference by content": Pinned(
        request={"image_urls": [BY_CONTENT, SHOE]},
        fingerprint="a75aadf096d1f54ee2f78b8b6ecc6bad9a77f5e7b50d0a61d96f0b40b0fe7a0b",
        key="airflow-evoimage-719efa7ccf08bcce4d4dbc1574426e722afcd6e6aa8ba34edff1c179e1a22661",
    ),
    "mask by content": Pinned(
        request={
            "model": "gpt-image-2",
            "image_urls": [BY_CONTENT],
            "extra_body": {"mask_url": MASK_BY_CONTENT},
        },
        fingerprint="8c257ea20dd13cb1beacf21bf59c6bc7c2f64696d317c44eb94c3bda862aa750",
        key="airflow-evoimage-ea00213b0f36b897b27ad1765f701b66b291a3e798e51544fedbf0757278df64",
    ),
    "mask by url, fields of other models": Pinned(
        request={
            "model": "gpt-image-2",
            "image_urls": [SHOE],
            "extra_body": {
                "mask_url": SIGNED_BY_AWS,
                "seed": 7,
                "layers": [{"image": SIGNED_BY_AWS, "opacity": 0.5}],
            },
        },
        fingerprint="aaaa9e8c6a65dca9abad7410567f1d8aebde399293bba2882d1b52bf18c779b3",
        key="airflow-evoimage-1871e227a1e9565b891221c72fb95dddab75c807ef81b4ccb60e3cb55893ea51",
    ),
    "callback is not part of it": Pinned(
        request={"callback_url": "https://hooks.example.com/done?token=1"},
        fingerprint="cd91c04a9a1354a361a0915e3fc602af739f7c0d4678bea458e6dece89175f15",
        key="airflow-evoimage-eef8ac4eeab3d5b6a5f37f928813b9ab1492007a83fcf92a8253787a639677ce",
    ),
    "cleared task": Pinned(
        identity={"epoch": 3},
        fingerprint="cd91c04a9a1354a361a0915e3fc602af739f7c0d4678bea458e6dece89175f15",
        key="airflow-evoimage-478345384f158307b814d943c8f1bf01e834f69381329a9d8638d8281ff0008d",
    ),
    "second generation after a failed one": Pinned(
        identity={"sequence": 1},
        fingerprint="cd91c04a9a1354a361a0915e3fc602af739f7c0d4678bea458e6dece89175f15",
        key="airflow-evoimage-64ed290634e98cd08801d1fc32eeea0193e41ee10cdbf2ec88d905055697d651",
    ),
    "namespace": Pinned(
        identity={"namespace": "staging"},
        fingerprint="cd91c04a9a1354a361a0915e3fc602af739f7c0d4678bea458e6dece89175f15",
        key="airflow-evoimage-af33a1329688566d85aae57fc9a1784e3d9826010f401447effc39efa3060937",
    ),
    "names of other letters": Pinned(
        identity={"dag_id": "kampagne_größer", "run_id": "manuell__Мая 1", "task_id": "gruppe.zeichne_狐"},
        fingerprint="cd91c04a9a1354a361a0915e3fc602af739f7c0d4678bea458e6dece89175f15",
        key="airflow-evoimage-555744d3fb08095231c0afc90e9057ade27ce3ce18798b8a2cb2eeb456e9b567",
    ),
    "mapped item": Pinned(
        identity={"item": "c" * 64},
        fingerprint="cd91c04a9a1354a361a0915e3fc602af739f7c0d4678bea458e6dece89175f15",
        key="airflow-evoimage-5eec52cafcccfd9229446ad4198181e9d7321b8405ef9d66ac4e438439b40689",
    ),
    "mapped item that is there twice": Pinned(
        identity={"item": "c" * 64, "occurrence": 1},
        fingerprint="cd91c04a9a1354a361a0915e3fc602af739f7c0d4678bea458e6dece89175f15",
        key="airflow-evoimage-989d595da94334b8ff6f0355e3279033806d34256ca52e9c44a69aa8fb6cfe62",
    ),
    "item of batch": Pinned(
        identity={"item": "batch -1"},
        fingerprint="cd91c04a9a1354a361a0915e3fc602af739f7c0d4678bea458e6dece89175f15",
        key="airflow-evoimage-b44cdecdf34be6bf43b4a5c68fee249e4067c9882cf8ffe46deea802ab64248e",
    ),
    "equal item of batch": Pinned(
        identity={"item": "batch -1", "occurrence": 1},
        fingerprint="cd91c04a9a1354a361a0915e3fc602af739f7c0d4678bea458e6dece89175f15",
        key="airflow-evoimage-f4af1bfe302fd068ecde64d2caf9967be454927cdbda42d0e710b5bca466a8d9",
    ),
    "item of mapped batch": Pinned(
        identity={"item": "batch 4"},
        fingerprint="cd91c04a9a1354a361a0915e3fc602af739f7c0d4678bea458e6dece89175f15",
        key="airflow-evoimage-dd8e7376be9428e023a0da8f9c9c57cbb7b5f7e089c7622ece8c4c1c9a7a4fe2",
    ),
}


@pytest.mark.parametrize("pinned", PINNED.values(), ids=PINNED)
def test_fingerprint_of_request_is_what_earlier_release_computed(pinned: Pinned) -> None:
    assert fingerprint(ImageRequest.build(**PLAIN | pinned.request)) == pinned.fingerprint


@pytest.mark.parametrize("pinned", PINNED.values(), ids=PINNED)
def test_key_of_request_is_what_earlier_release_computed(pinned: Pinned) -> None:
    identity = RequestIdentity(fingerprint=pinned.fingerprint, **IDENTITY | pinned.identity)
    assert identity.idempotency_key == pinned.key


def test_documented_defaults_of_a_model_are_part_of_its_fingerprint() -> None:
    request = ImageRequest.build(model="gpt-image-1.5", prompt="a red fox")
    assert fingerprint(request) == "7782274b12820fa073f142675172425a0c73817cb2023caa4942ef5c2f2613ca"


class TaskInstance:
    dag_id, run_id, task_id, max_tries = "campaign", "scheduled__2026-05-01T00:00:00+00:00", "draw", 2

    def __init__(self, task: Any, map_index: int) -> None:
        self.task, self.map_index = task, map_index


def mapped(items: list[dict[str, Any]]) -> Any:
    with DAG("campaign"):
        return EvoImageGenerateOperator.partial(task_id="draw").expand_kwargs(items)


MAPPED_ITEMS: list[dict[str, Any]] = [
    {"prompt": "a mug"},
    {"prompt": "ein größerer Becher", "n": 2},
    {"prompt": "a mug", "save_to": "s3://bucket/mugs"},
    {"prompt": "a mug", "image_urls": [SIGNED_BY_AWS], "extra_body": {"seed": 1.5, "tags": {"b", "a"}}},
]
MAPPED_AS = [
    MappedItem("956c7fe26647a9d39e0efe748c98a230ada0fd76620bbc21ef2869496e9cdea7", 0),
    MappedItem("fe0756c495efd8ca76fa093d93710fac71453bf1649b5bd218753904a1367019", 0),
    MappedItem("956c7fe26647a9d39e0efe748c98a230ada0fd76620bbc21ef2869496e9cdea7", 1),
    MappedItem("98faaf52bc968e6eeebf99bc7f3d37c7bf7fb63f15b89b7acbf4d4341b1472e6", 0),
]


@pytest.mark.parametrize("map_index", range(4))
def test_item_of_mapped_list_is_known_as_in_earlier_release(map_index: int) -> None:
    ti = TaskInstance(mapped(MAPPED_ITEMS), map_index)
    assert mapped_item({"ti": ti}) == MAPPED_AS[map_index]


def test_mapped_task_whose_list_is_unknown_is_known_by_place_as_in_earlier_release() -> None:
    assert mapped_item({"ti": TaskInstance(None, 7)}) == MappedItem("position 7")


@pytest.mark.parametrize(
    ("map_index", "sequence", "key"),
    [
        (-1, 0, "airflow-evoimage-eef8ac4eeab3d5b6a5f37f928813b9ab1492007a83fcf92a8253787a639677ce"),
        (-1, 1, "airflow-evoimage-64ed290634e98cd08801d1fc32eeea0193e41ee10cdbf2ec88d905055697d651"),
        (0, 0, "airflow-evoimage-af1d7560c186dc5b568824827ce7ad5472d8ab747113a8319b78285d55783fbf"),
        (1, 0, "airflow-evoimage-1e8131468fb7dacd5ee05b0a5e0f9f1f96d63e4e1b8192bbba13db77a46a0e6c"),
        (2, 0, "airflow-evoimage-b67d76a6ae4af8b918795fbc988dd446b18677814740fdce331a13ac733cab78"),
    ],
)
def test_key_of_airflow_task_is_what_earlier_release_computed(
    map_index: int, sequence: int, key: str
) -> None:
    context = {"ti": TaskInstance(mapped(MAPPED_ITEMS), map_index)}
    identity = identity_of(context, namespace="", fingerprint=PINNED["plain"].fingerprint)
    assert replace(identity, sequence=sequence).idempotency_key == key


def test_items_of_batch_are_known_as_in_earlier_release() -> None:
    entries = [
        Entry(fields={"name": "first", "prompt": "a red fox"}),
        Entry(fields={"prompt": "a blue fox"}),
        Entry(fields={"name": "again", "prompt": "a red fox", "callback_url": "https://hooks.example.com/a"}),
    ]
    defaults = {name: PLAIN[name] for name in ("model", "size", "quality", "n")}
    items = build_items(entries, defaults, lambda _: None)
    assert [item.ledger_key for item in items] == [
        ("cd91c04a9a1354a361a0915e3fc602af739f7c0d4678bea458e6dece89175f15", 0),
        ("fcf2978937cc67de1dcd20a7dadfc2a0eccc110edc40f5d0774be62a6016c454", 0),
        ("cd91c04a9a1354a361a0915e3fc602af739f7c0d4678bea458e6dece89175f15", 1),
    ]


@pytest.mark.parametrize(
    ("namespace", "owner", "name"),
    [
        ("", None, "ref-a2d0533cc5e4409738f7-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.png"),
        ("staging", None, "ref-6f1cce24a0f8a5e0ef38-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.png"),
        ("", ("draw", -1), "ref-f790bc18016185896339-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.png"),
        ("", ("draw", 3), "ref-a6a415335b55594fe4e4-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.png"),
    ],
)
def test_name_of_uploaded_reference_is_what_earlier_release_computed(
    namespace: str, owner: tuple[str, int] | None, name: str
) -> None:
    names = UploadNames(namespace=namespace, dag_id="campaign", run_id="run", owner=owner)
    assert names.name(StoredReference(source="shoe.png", sha256="a" * 64, content_type="image/png")) == name


def test_variant_changes_the_fingerprint_and_none_keeps_it() -> None:
    request = ImageRequest.build(model="gpt-image-1.5", prompt="a red fox")
    marks = [fingerprint(request, variant) for variant in (None, "a", "b", "")]
    assert marks[0] == fingerprint(request)
    assert len(set(marks)) == 4

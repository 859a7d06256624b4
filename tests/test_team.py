"""Sharing through an S3 bucket; `test_experiments.py` does so through a shared folder."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.checkout import Checkout, Repository

pytestmark = pytest.mark.xdist_group("team")  # in one of the two processes, so that the pipeline runs once for them

RAW = "data/raw"


def push(checkout: Checkout, folder: Path, url: str, endpoint: str | None = None) -> Repository:
    """Push the checkout's results to a new remote, as the project's keeper does; return a keeper's clone of it."""
    keeper = checkout.clone(folder)
    keeper.dvc("remote", "add", "--default", "team", url)
    if endpoint:
        keeper.dvc("remote", "modify", "team", "endpointurl", endpoint)
    keeper.commit("name the remote")
    keeper.dvc("config", "--local", "cache.dir", str(checkout.folder / ".dvc/cache"))
    keeper.dvc("push")
    return keeper


def raw_hashes(checkout: Checkout) -> set[str]:
    return {md5 for path, md5 in checkout.hashes().items() if path.startswith(RAW)}


def try_and_give_back(keeper: Repository, folder: Path) -> None:
    """Clone, pull, try another parameter, push the experiment, and apply it in a third clone."""
    member = keeper.clone(folder)
    member.dvc("pull")
    assert not (member.folder / RAW).exists() and (member.folder / "data/models/model.safetensors").exists()
    ran = member.ran("exp", "run", "--allow-missing", "-n", "fewer", "-S", "evaluate.neighbours=3")
    assert ran[:2] == ["evaluate", "controls"] and set(ran) <= {"evaluate", "controls", "predict"}
    assert not (member.folder / RAW).exists()
    member.dvc("exp", "push", "origin", "fewer")
    assert "fewer" in keeper.dvc("exp", "list")
    reviewer = keeper.clone(folder.with_name("reviewer"))
    reviewer.dvc("pull")
    reviewer.dvc("exp", "pull", "origin", "fewer")
    reviewer.dvc("exp", "apply", "fewer")
    assert reviewer.hashes() == member.hashes()
    assert (reviewer.folder / "data/evaluation/test.csv").read_bytes() == (
        member.folder / "data/evaluation/test.csv"
    ).read_bytes()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an S3 server with the bucket `lesions`."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
        monkeypatch.setenv(f"AWS_{name}", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="lesions")
    yield endpoint
    server.stop()


def test_an_s3_bucket_serves_a_team_without_the_release(checkout: Checkout, tmp_path: Path, s3: str) -> None:
    keeper = push(checkout, tmp_path / "keeper", "s3://lesions/isic-siamese", s3)
    listed = boto3.client("s3", endpoint_url=s3).list_objects_v2(Bucket="lesions")["Contents"]
    stored = {"".join(entry["Key"].split("/")[-2:]) for entry in listed}
    assert len(stored) > 20 and not stored & raw_hashes(checkout)
    try_and_give_back(keeper, tmp_path / "member")

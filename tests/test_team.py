"""Sharing through an S3 bucket; `test_experiments.py` does so through a shared folder."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.checkout import Checkout, Experiment

pytestmark = pytest.mark.xdist_group("pipeline")  # in one of the two processes, so that the pipeline runs once for them


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


def test_an_s3_bucket_serves_a_team_without_the_release(
    checkout: Checkout, wider: Experiment, tmp_path: Path, s3: str
) -> None:
    hub, keeper = checkout.publish(tmp_path)
    keeper.dvc("remote", "add", "--default", "team", "s3://lesions/isic-siamese")
    keeper.dvc("remote", "modify", "team", "endpointurl", s3)
    keeper.commit("name the remote")
    keeper.git("push", "-q")
    keeper.dvc("push")
    listed = boto3.client("s3", endpoint_url=s3).list_objects_v2(Bucket="lesions")["Contents"]
    stored = {"".join(entry["Key"].split("/")[-2:]) for entry in listed}
    raw = {md5 for path, md5 in checkout.hashes().items() if path.startswith("data/raw")}
    assert len(stored) > 20 and raw and not stored & raw

    member = hub.clone(tmp_path / "member")
    member.dvc("pull")
    assert (member.folder / "data/models/model.safetensors").exists()
    assert member.ran("repro", "--allow-missing") == []

    keeper.dvc("exp", "run", "--allow-missing", "-n", "wider", "-S", "margin=2.0")
    keeper.dvc("exp", "push", "origin", "wider")
    assert "wider" in member.dvc("exp", "list", "origin")
    member.dvc("exp", "pull", "origin", "wider")
    member.dvc("exp", "apply", "wider")
    assert member.hashes() == wider.hashes
    for name in ("data/models/model.safetensors", "data/evaluation/test.csv"):
        assert (member.folder / name).read_bytes() == (keeper.folder / name).read_bytes()
    assert not (member.folder / "data/raw").exists()

"""What the official client does with the hub of these tests; run by the test that starts it."""
import pathlib

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

api = HfApi()
assert api.whoami()["name"] == "tester"

# Its own repository: created, filled one by one and many at once, listed, fetched.
base = pathlib.Path("base")
repo = api.create_repo("tester/uploaded").repo_id
api.upload_file(path_or_fileobj=str(base / "config.json"), path_in_repo="config.json", repo_id=repo)
rest = [path for path in sorted(base.iterdir()) if path.name != "config.json"]
extra = CommitOperationAdd("extra.txt", b"to be deleted")
adds = [CommitOperationAdd(path.name, str(path)) for path in rest]
first = api.create_commit(repo, operations=[*adds, extra], commit_message="the rest")
gone = CommitOperationDelete("extra.txt")
api.create_commit(repo, operations=[gone], commit_message="less", parent_commit=first.oid)
try:
    late = CommitOperationAdd("late.txt", b"late")
    api.create_commit(repo, operations=[late], commit_message="late", parent_commit=first.oid)
    raise SystemExit("a commit on a stale parent was taken")
except HfHubHTTPError as error:
    assert error.response.status_code == 412, error
names = sorted(path.name for path in base.iterdir())
assert sorted(set(api.list_repo_files(repo)) - {".gitattributes"}) == names
for path in base.iterdir():
    fetched = pathlib.Path(hf_hub_download(repo, path.name))
    assert fetched.read_bytes() == path.read_bytes(), path

# A library of Lyceum's: every expert's folder is what it is on disk.
library = pathlib.Path(snapshot_download("tester/mine", allow_patterns="experts/*"))
experts = [path for path in pathlib.Path("mine/experts").iterdir() if path.is_dir()]
assert len(experts) == 3, experts
for expert in experts:
    for path in expert.iterdir():
        there = library / "experts" / expert.name / path.name
        assert there.read_bytes() == path.read_bytes(), path

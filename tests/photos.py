"""Twenty photos with what they show, from Debian packages: fetched when first needed, never committed.

`apt-get download` needs no root and checks the signatures; only the listed files are kept, in the user's
cache (or `ECO2_TEST_PHOTOS`). `python -m tests.photos` fetches them ahead of a run; with `--write` it also
writes the table of docs/local-model.md anew.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from eco2.llm.classifier import Classifier, open_classifier, user_cache
from eco2.pipeline import Label
from eco2.stages.labels import best_middle, classify
from eco2.stages.taxonomy import Major, major_of
from eco2.thumbnail import to_jpeg

LIST = Path(__file__).parent / "integration" / "photos.json"
DOCUMENT = Path(__file__).parent.parent / "docs" / "local-model.md"
BEGIN, END = "<!-- photos: begin -->\n", "<!-- photos: end -->\n"


class PhotosMissing(Exception):
    """The photos could not be fetched; the message says what to type."""


@dataclass(frozen=True)
class Photo:
    """`major` is what a person who looked at the photo says, by the public rules."""

    package: str
    file: str
    shows: str
    major: Major

    @property
    def name(self) -> str:
        return f"{self.package}: {Path(self.file).name}"


@dataclass(frozen=True)
class Verdict:
    """What the local model made of a photo."""

    photo: Photo
    best: Label
    score: float
    decided: Major

    @property
    def outcome(self) -> str:
        if self.decided is self.photo.major:
            return "right"
        return "honest" if self.decided is Major.UNKNOWN else "wrong"


def photos() -> list[Photo]:
    rows = json.loads(LIST.read_text(encoding="utf-8"))
    return [Photo(**(row | {"major": Major(row["major"])})) for row in rows]


def read(photo: Photo) -> bytes:
    """The photo's bytes. Raises `PhotosMissing`."""
    if photo.package == "eco2":
        return files("eco2.stages").joinpath("data", photo.file).read_bytes()
    return (folder() / photo.file).read_bytes()


def folder() -> Path:
    """Where the packages' photos lie; fetches them if one is missing."""
    given = os.environ.get("ECO2_TEST_PHOTOS")
    target = Path(given) if given else user_cache() / "test-photos"
    wanted = [photo for photo in photos() if photo.package != "eco2"]
    for package in sorted({photo.package for photo in wanted if not (target / photo.file).exists()}):
        _fetch(package, [photo.file for photo in wanted if photo.package == package], target)
    return target


def _fetch(package: str, names: list[str], target: Path) -> None:
    if shutil.which("apt-get") is None:
        raise PhotosMissing(f"put the photos of Debian's {package} where ECO2_TEST_PHOTOS says")
    print(f"fetching the test photos in Debian's {package}, once", flush=True)
    with tempfile.TemporaryDirectory() as work:
        if not _download(package, work):
            subprocess.run([*_as_root(), "apt-get", "update", "-qq"], capture_output=True, check=False)
        if not (list(Path(work).glob("*.deb")) or _download(package, work)):
            raise PhotosMissing(f"cannot download {package}: type  apt-get update  as root, then try again")
        _extract(next(Path(work).glob("*.deb")), names, target)


def _download(package: str, folder: str) -> bool:
    command = ["apt-get", "download", "-qq", package]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def _as_root() -> list[str]:
    return [] if os.geteuid() == 0 else ["sudo", "-n"]


def _extract(archive: Path, names: list[str], target: Path) -> None:
    """Streams the package's tree and keeps the wanted files."""
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as tree,
    ):
        for member in tree:
            content = tree.extractfile(member) if member.name.removeprefix("./") in names else None
            if content is not None:
                _write(target / member.name.removeprefix("./"), content.read())


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_bytes(data)
    draft.replace(path)


def judge(classifier: Classifier, photo: Photo) -> Verdict:
    """What the scan decides: the photo is made small as the gateway does it, then classified."""
    labels = classifier.classify(to_jpeg(read(photo)))
    middle, _ = classify(labels)
    return Verdict(photo, labels[0], best_middle(labels)[1], major_of(middle))


def table(verdicts: list[Verdict]) -> str:
    """The Markdown table of the documentation."""
    head = "| Photo | shows | truth | best label | class score | decided | |\n|---|---|---|---|---|---|---|\n"
    return head + "".join(
        f"| {verdict.photo.name} | {verdict.photo.shows} | {verdict.photo.major} "
        f"| {verdict.best.name} {verdict.best.score:.2f} | {verdict.score:.2f} "
        f"| {verdict.decided} | {verdict.outcome} |\n"
        for verdict in verdicts
    )


def main() -> None:
    folder()
    if "--write" in sys.argv[1:]:
        classifier = open_classifier()
        before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        body = table([judge(classifier, photo) for photo in photos()])
        DOCUMENT.write_text(before + BEGIN + body + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()

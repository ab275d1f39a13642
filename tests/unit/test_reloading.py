"""Following the configuration file: which folders are watched."""

from pathlib import Path

from service.process.reloading import folders_of


def test_the_folder_of_the_file_is_watched(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    assert folders_of(tmp_path / "config.yaml") == {tmp_path.resolve()}


def test_a_link_anywhere_above_the_file_and_what_it_points_to_are_watched(tmp_path: Path) -> None:
    """/top/current → versions/v1, /top/current/config.yaml → /elsewhere/data/config.yaml, data → v7."""
    top, elsewhere = tmp_path / "top", tmp_path / "elsewhere"
    (top / "versions" / "v1").mkdir(parents=True)
    (top / "current").symlink_to("versions/v1")
    (elsewhere / "v7").mkdir(parents=True)
    (elsewhere / "v7" / "config.yaml").touch()
    (elsewhere / "data").symlink_to("v7")
    (top / "versions" / "v1" / "config.yaml").symlink_to(elsewhere / "data" / "config.yaml")
    assert folders_of(top / "current" / "config.yaml") == {
        folder.resolve() for folder in (top, top / "versions" / "v1", elsewhere, elsewhere / "v7")
    }


def test_links_in_a_circle_and_a_missing_file_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert folders_of(tmp_path / "a" / "config.yaml") == {tmp_path.resolve()}
    assert folders_of(tmp_path / "nowhere" / "config.yaml") == set()

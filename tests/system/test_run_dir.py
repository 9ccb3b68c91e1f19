"""The names of a run's files stand in one module, and one class reads them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sscjax.errors import UserError
from sscjax.system import files, run_dir
from sscjax.system.run_dir import RunDir

PACKAGE = Path(run_dir.__file__).resolve().parent.parent

NAMES = {value for key, value in vars(run_dir).items() if key.isupper() and isinstance(value, str)}
FILES = {name for name in NAMES if "." in name and not name.startswith(".")}
FOLDERS = NAMES - FILES


def literals(source: str) -> Iterator[int]:
    """Lines of a module that spell a file of a run, or a path over its folders, themselves."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = node.value.split("/")
            over_folder = len(parts) > 1 and " " not in node.value and parts[0] in FOLDERS
            if FILES & set(parts) or over_folder or node.value.startswith("confusion_"):
                yield node.lineno
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            right = node.right
            if isinstance(right, ast.Constant) and right.value in FOLDERS:
                yield node.lineno


def test_names_of_a_run_are_spelt_in_one_module() -> None:
    assert len(FILES) >= 20 and len(FOLDERS) >= 6
    own = Path(run_dir.__file__).resolve()
    modules = [path for path in PACKAGE.rglob("*.py") if path != own and path.parent != PACKAGE]
    assert len(modules) > 80
    spelt = {
        str(path.relative_to(PACKAGE)): lines
        for path in modules
        if (lines := list(literals(path.read_text(encoding="utf-8"))))
    }
    assert spelt == {}


def test_the_check_sees_what_it_forbids() -> None:
    code = 'a / "metrics.json"\nb / "stages" / c\nd.glob("folds/*/x")\nf"confusion_{e}.png"\n'
    allowed = 'g = "the stages of metrics.json"\nh["stages"]\n'
    assert sorted(literals(code + allowed)) == [1, 2, 3, 4]


# ---- the reader ----------------------------------------------------------------------------------


def started(folder: Path, status: str = "finished") -> RunDir:
    """A run's record, as small as it can be."""
    record: dict[str, Any] = {key: {} for key in run_dir.KEYS}
    record |= {"status": status, "stages": [{"name": "head", "micro_batch": 8}]}
    files.write_json(folder / run_dir.RECORD, record)
    return RunDir(folder)


def test_record_of_a_finished_run(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    assert run.finished_record()["stages"][0]["name"] == "head"
    assert run.record() == run.finished_record() == run_dir.read(tmp_path / "run")


def test_folders_without_a_finished_run(tmp_path: Path) -> None:
    assert RunDir(tmp_path).record() is None
    (tmp_path / "file").touch()
    for name, message in (("none", "does not exist"), ("file", "is a file"), ("", "holds no run")):
        with pytest.raises(UserError, match=message):
            RunDir(tmp_path / name).finished_record()
    with pytest.raises(UserError, match="is not finished"):
        started(tmp_path / "begun", "started").finished_record()
    started(tmp_path / "many" / "folds" / "fold_0")
    with pytest.raises(UserError, match="is a cross-validation of 1 runs.*fold_0"):
        RunDir(tmp_path / "many").finished_record()


def test_results_that_are_missing_or_damaged(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.optional(run_dir.AUDIT) is None and run.curves() == [] and run.report() is None
    for read in (run.metrics, run.calibration):
        with pytest.raises(UserError, match=r"json cannot be read \(No such file"):
            read()
    for text in ("{", "[]", "[" * 200_000):
        files.write_text(tmp_path / run_dir.METRICS, text)
        with pytest.raises(UserError, match=r"metrics\.json cannot be read"):
            run.metrics()
    files.write_text(tmp_path / run_dir.AUDIT, "{")
    with pytest.raises(UserError, match=r"audit\.json is damaged .*rewrite it"):
        run.optional(run_dir.AUDIT)
    files.write_text(tmp_path / run_dir.PROTOCOL, '{"status": "finished"}')
    with pytest.raises(UserError, match=r"protocol\.json cannot be read .*folds.* command again"):
        run.protocol()


def test_folds_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        started(tmp_path / "folds" / f"fold_{number}")
    (tmp_path / "folds" / "fold_3").mkdir()
    run = RunDir(tmp_path)
    assert [fold.name for fold in run.folds()] == ["fold_1", "fold_2", "fold_10"]
    assert run.folds(run_dir.METRICS) == []
    started(tmp_path / "search" / "fold_1" / "candidate_0-inner_0")
    assert [inner.name for inner in run.searched()] == ["candidate_0-inner_0"]


def test_stages_and_curves(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    stage = run.stage("head")
    assert stage.read() is None and run.stages() == []
    files.write_json(stage.about, {"value": 0.5})
    assert stage.read() == {"value": 0.5} and [one.name for one in run.stages()] == ["head"]
    files.write_text(stage.about, "[]")
    with pytest.raises(UserError, match=r"stage\.json is damaged .*: delete .*head to train"):
        stage.read()
    files.write_text(tmp_path / run_dir.CURVES, "epoch,stage,val_loss\n1,head,\n2,head,0.25\n")
    assert run.curves() == [
        {"epoch": 1.0, "stage": "head", "val_loss": None},
        {"epoch": 2.0, "stage": "head", "val_loss": 0.25},
    ]

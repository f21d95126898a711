"""Results on standard output, messages on standard error, and what a shell can complete."""

import json
import logging
import shutil
import subprocess

import pytest

from dual_image_clip import cli
from dual_image_clip.commands.output import Messages, give_result, say, tell


def test_messages_are_told_as_they_are_on_standard_error(capsys):
    message = "photos/[red]a[/red].png " + 30 * "is a long name, " + "\u2713"
    tell(message, style="bold red")
    written = capsys.readouterr()
    assert (written.out, written.err) == ("", message + "\n")


def test_results_go_to_standard_output(capsys):
    say("a result")
    written = capsys.readouterr()
    assert (written.out, written.err) == ("a result\n", "")


def test_log_messages_are_told(capsys):
    handler = Messages()
    handler.emit(logging.LogRecord("any", logging.WARNING, "file", 1, "%d file(s):\n  a.png", (2,), None))
    assert capsys.readouterr().err == "2 file(s):\n  a.png\n"


@pytest.mark.parametrize("as_json", [True, False], ids=["machines", "people"])
def test_a_result_is_for_people_or_for_machines(capsys, as_json):
    record = {"path": "no UTF-8: \udcff", "score": 0.5}
    give_result(["first", "second"], record, as_json)
    written = capsys.readouterr().out
    if as_json:
        assert json.loads(written) == record
        assert written.isascii()
    else:
        assert written == "first\nsecond\n"


BASH = shutil.which("bash")


def completions(script, *words):
    """What bash offers for the last word."""
    program = f"""
source {script}
COMP_WORDS=(dual-image-clip {" ".join(words)}); COMP_CWORD={len(words)}
_shtab_dual_image_clip
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    ended = subprocess.run([BASH, "-c", program], capture_output=True, text=True, check=True)
    return ended.stdout.split()


@pytest.mark.skipif(BASH is None, reason="there is no bash")
def test_bash_completes_commands_options_and_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["--print-completion", "bash"])
    assert ended.value.code == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    (tmp_path / "photos").mkdir()
    assert "predict" in completions(script, "pre")
    assert "--golden" in completions(script, "predict", "photos", "--gol")
    assert "photos" in completions(script, "predict", "photos", "--golden", "pho")

"""An interpreter's program is its script, told by both daemons alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from closeranks_proto import programs

PYTHON, PHP, PERL = "/usr/bin/python3.11", "/usr/bin/php8.2", "/usr/bin/perl"
RUBY, NODE, BASH = "/usr/bin/ruby3.1", "/usr/bin/node", "/usr/bin/bash"


@pytest.mark.parametrize(
    ("exe", "command", "found"),
    [
        (PYTHON, "python3 /srv/job.py --all", "script /srv/job.py"),
        (PYTHON, "python3 -u -W ignore -X dev /srv/job.py", "script /srv/job.py"),
        (PYTHON, "python3 -Wignore -Xdev job.py", "script job.py"),
        (PYTHON, "python3 --check-hash-based-pycs always job.py", "script job.py"),
        (PYTHON, "python3 -m http.server 80", "module http.server"),
        (PYTHON, "python3 -Im http.server", "module http.server"),
        (PYTHON, "python3 -c 'import os; os.unlink(1)' x.py", 'code "import os; os.unlink(1)"'),
        (PYTHON, "python3 -", ""),
        (PYTHON, "python3", ""),
        (PYTHON, "python3 -W", ""),
        (PYTHON + " (deleted)", "python3 job.py", "script job.py"),
        ("/opt/venv/bin/python", "python '/srv/my site/job.py' x", 'script "/srv/my site/job.py"'),
        (PHP, "php -f /srv/site/cron.php", "script /srv/site/cron.php"),
        (PHP, "php -d memory_limit=1G -c /etc/php.ini /srv/site/cron.php", "script /srv/site/cron.php"),
        (PHP, "php --php-ini=/etc/php.ini --file cron.php", "script cron.php"),
        (PHP, "php -S 0.0.0.0:80 -t /srv router.php", "script router.php"),
        (PHP, "php -r 'unlink(1);'", 'code "unlink(1);"'),
        ("/usr/sbin/php-fpm8.2", "'php-fpm: pool www'", ""),
        (PERL, "perl -I /srv/lib -MFile::Copy -w job.pl", "script job.pl"),
        (PERL, "perl -pi -e s/a/b/ x.txt", 'code "s/a/b/"'),
        (PERL, "perl -pi.bak -es/a/b/ x.txt", 'code "s/a/b/"'),
        (PERL, "perl -T -- -odd.pl", "script -odd.pl"),
        (RUBY, "ruby -I lib -r set -W0 job.rb", "script job.rb"),
        (RUBY, "ruby --encoding utf-8 --yjit job.rb", "script job.rb"),
        (NODE, "node --require ./x.js --max-old-space-size=99 app.js", "script app.js"),
        (NODE, "node --eval=1+1 app.js", 'code "1+1"'),
        (NODE, "node -pe 1+1", 'code "1+1"'),
        (BASH, "bash -euo pipefail /srv/job.sh", "script /srv/job.sh"),
        (BASH, "-bash", ""),
        (BASH, "bash -lc 'cp -r /a /b'", 'code "cp -r /a /b"'),
        (BASH, "bash -c -e 'cp a b' name", 'code "cp a b"'),
        (BASH, "bash --rcfile /etc/x +O extglob job", "script job"),
        (BASH, "bash -s -- job", ""),
        ("/bin/sh", "sh -x job", "script job"),
        ("/usr/bin/rsync", "rsync -a job.py /srv", ""),
        ("/srv/python3/bin/tool", "tool job.py", ""),
        ("/usr/bin/ssh", "ssh host job.sh", ""),
    ],
)  # fmt: skip
def test_what_runs_is_what_the_interpreter_would_take(exe: str, command: str, found: str) -> None:
    assert programs.inside(exe, command) == found


def test_a_program_is_told_with_its_script() -> None:
    assert programs.words(PHP, "php cron.php") == "/usr/bin/php8.2 (script cron.php)"
    assert programs.words("/bin/cp", "cp a b") == "/bin/cp"
    assert programs.words("", "a b") == "a b"
    assert programs.words("", "") == "a process"


def test_scripts_tell_writers_apart_and_options_do_not() -> None:
    one = programs.key_of(PYTHON, "python3 -u /srv/a.py --x")
    assert one == programs.key_of(PYTHON, "python3 -W ignore /srv/a.py")
    assert one != programs.key_of(PYTHON, "python3 -u /srv/b.py --x")
    assert programs.key_of(PYTHON, "python3 -m a") != programs.key_of(PYTHON, "python3 a")
    assert programs.key_of(BASH, "bash -c 'cp a b'") == programs.key_of(BASH, "bash -c 'cp c d'")
    assert programs.key_of("/bin/cp", "cp a b") is None


def test_a_long_path_is_told_by_its_end() -> None:
    told = programs.inside(PHP, f"php /{'d' * 500}/cron.php")
    assert len(told) == len("script ") + programs.NAME_WIDTH
    assert told.startswith("script …d")
    assert told.endswith("d/cron.php")


def test_a_name_can_not_pass_for_another_part_of_the_sentence() -> None:
    assert programs.inside(PHP, "php x),unit,cron") == 'script "x),unit,cron"'
    assert programs.inside(PHP, 'php x"),unit') == 'script "x\\"),unit"'
    assert programs.inside(PHP, "php \x1b[2J\u202e") == "script \\x1b[2J\\xe2\\x80\\xae"


@given(st.sampled_from([PYTHON, PHP, PERL, RUBY, NODE, BASH]), st.text())
def test_whatever_a_node_tells_is_one_short_printable_line(exe: str, command: str) -> None:
    told = programs.inside(exe, command)
    assert told.isprintable()
    assert len(told) <= programs.NAME_WIDTH + len('script ""')


@given(st.sampled_from([PYTHON, PHP, PERL, RUBY, NODE, BASH]), st.lists(st.sampled_from(
    ["-c", "-e", "-m", "-", "--", "-o", "+O", "'", "''", "' '", "x", "--file=", "-s", "--run"]
)))  # fmt: skip
def test_every_command_line_is_read_to_an_end(exe: str, words: list[str]) -> None:
    assert programs.run_by(exe, " ".join(["run", *words])).kind in ("", "script", "module", "code")

"""Passwords in addresses: masked wherever text leaves the program, and nothing else is changed."""

import json
import logging
import sys
from pathlib import Path

import pytest

from speech_jax.config import parse_config
from speech_jax.core.config_dict import describe_differences, differences, from_dict, mask_config, to_text
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.log import MaskingFormatter, log, mask_record
from speech_jax.core.passwords import is_masked, mask_address, mask_passwords
from speech_jax.data.config import DataConfig, SourceConfig
from speech_jax.models.config import ConformerConfig, CRNNConfig
from speech_jax.monitoring.config import WatchConfig

ADDRESS = "postgresql://me:hunter2@127.0.0.1/db"
MASKED = "postgresql://me:***@127.0.0.1/db"
MASKED_AT_H = "postgresql://me:***@h/db"


@pytest.mark.parametrize("text, masked", [
    (ADDRESS, MASKED),
    (f"found {ADDRESS!r} (or {ADDRESS!r}), expected another", f"found {MASKED!r} (or {MASKED!r}), expected another"),
    ("mysql+pymysql://u:p%40w@h:3306/d", "mysql+pymysql://u:***@h:3306/d"),
    ("postgresql://me:p@ss@h/db", "postgresql://me:***@h/db"),
    ("postgresql://me:a/b@h/db", "postgresql://me:***@h/db"),
    ("redis://:12345@h:6379/0", "redis://:***@h:6379/0"),
    ("https://ghp_abc@github.com/x", "https://***@github.com/x"),
    ("https://ghp_abc:x-oauth-basic@github.com/x", "https://***:x-oauth-basic@github.com/x"),
    ("s3://KEY:SEC/RET@bucket/x", "s3://KEY:***@bucket/x"),
    ("postgresql://h/db?user=me&password=hunter2&x=1", "postgresql://h/db?user=me&password=***&x=1"),
    ("https://a.b/x?X-Amz-Signature=abc&sv=2&sig=xx#f", "https://a.b/x?X-Amz-Signature=***&sv=2&sig=***#f"),
    ("postgresql%3A%2F%2Fme%3Ahunter2%40h", "postgresql%3A%2F%2Fme%3A***%40h"),
    ("invalid dsn: host=h password=hunter2 dbname=x", "invalid dsn: host=h password=*** dbname=x"),
    ("postgresql://me@corp:hunter2@h:5432/d", "postgresql://me@corp:***@h:5432/d"),
    ("https://tok@h:8080/x?y=a@b", "https://***@h:8080/x?y=a@b"),
    ("Server=h;UID=me;Pwd=hunter2;x=1", "Server=h;UID=me;Pwd=***;x=1"),
    ("mssql:///?odbc=UID%3Dme%3BPWD%3Dhunter2%3Bx", "mssql:///?odbc=UID%3Dme%3BPWD%3D***%3Bx"),
    ("a=http://u:p@h;b=http://x:y@z", "a=http://u:***@h;b=http://x:***@z"),
    (str(Path("/run/https://me:hunter2@h/x.jsonl")), "/run/https:/me:***@h/x.jsonl"),
    (str(Path("https://ghp_abc@h/x.jsonl")), "https:/***@h/x.jsonl"),
    ('postgresql://me:hun"ter2@h/db', MASKED_AT_H), ("postgresql://me:hun't\"er2@h/db", MASKED_AT_H),
    ("postgresql://me:hun ter2@h/db", MASKED_AT_H), ("postgresql://me:hun<ter2>@h/db", MASKED_AT_H),
    ("postgresql://me:4711/hunter2@h/db", MASKED_AT_H), ("postgresql://me:4711?hunter2@h/db", MASKED_AT_H),
    ("postgresql://me:4711#hunter2@h/db", MASKED_AT_H), ("postgresql://me:@hunter2@@h/db", MASKED_AT_H),
    ("postgresql://o'brien:hunter2@h/db", "postgresql://o'brien:***@h/db"),
    ('postgresql://"me":hunter2@h/db', 'postgresql://"me":***@h/db'),
    ("postgresql://m e:hunter2@h/db", "postgresql://m e:***@h/db"),
    ("postgresql://me/team:hunter2@h/db", "postgresql://me/team:***@h/db"),
    ("https://me/team:hunter2@h/db", "https://***"),
    ("mongodb://a:hunter2@h1:27017,b:hunter2@h2:27017/db", "mongodb://a:***@h2:27017/db"),
    ("mssql:///?odbc_connect=PWD%3Dhunter2", "mssql:///?odbc_connect=PWD%3D***"),
    ("mssql:///?odbc_connect=PWD%3D%7Bhun%3Bter2%7D%3Bx%3D1", "mssql:///?odbc_connect=PWD%3D***%3Bx%3D1"),
    ("mssql:///?odbc_connect=UID=sa;PWD={hun;ter2};x=1", "mssql:///?odbc_connect=UID=sa;PWD=***;x=1"),
    ("Pwd=hunter2;Server=h", "Pwd=***;Server=h"), ("Pwd=hun ter2;Server=h", "Pwd=***;Server=h"),
    ("mysql://h/db?password=hun&ter2&x=1", "mysql://h/db?password=***&x=1"),
    (r"password='it\'s hunter2' dbname=x", "password=*** dbname=x"), ("sslpassword=hunter2", "sslpassword=***"),
    ("databricks://hunter2@h", "databricks://***@h"), ("dagshub://hun@ter2@h/x", "dagshub://***@h/x"),
    ("databricks://hun/ter2@h", "databricks://***@h"), ("https://hun@ter2@h:80/x", "https://***@h:80/x"),
    ("http://h/?auth=a&authorization=b&bearer=c&jwt=d&x=1",
     "http://h/?auth=***&authorization=***&bearer=***&jwt=***&x=1"),
    ("https://h/#access_token=hunter2", "https://h/#access_token=***"),
    ("Authorization: Bearer hunter2", "Authorization: Bearer ***"), ("PGPASSWORD=hunter2 x", "PGPASSWORD=*** x"),
    ("MLFLOW_TRACKING_PASSWORD=hunter2", "MLFLOW_TRACKING_PASSWORD=***"), ("HF_TOKEN=hf_x", "HF_TOKEN=***"),
])  # fmt: skip
def test_what_is_secret_is_masked(text, masked):
    assert mask_passwords(text) == masked == mask_passwords(masked)
    assert mask_address(text) == masked == mask_address(masked)
    sentence = mask_passwords(f"found {text!r}, expected another of me@x.org")
    assert sentence == mask_passwords(sentence) and sentence.endswith(", expected another of me@x.org")
    assert not any(part in sentence for part in ("hunter2", "hun", "ter2", "ghp_abc", "SEC"))


@pytest.mark.parametrize("text", [
    "sqlite:///runs/a@b:c.db", "sqlite:////abs/ml.db", r"C:\Users\me@x:y", "file:///C:/x:y@z", "gs://bucket/a@b",
    "http://host:8080/a@b?x=1", "http://[::1]:5000/x@y", "git@github.com:a/b", "postgresql://me@h/db",
    "abfss://container@account.dfs.core.windows.net/x", "me@x.com: https://x.com/y:z", "pad_token=5 key=3", "a/***@b",
    "C:/Users/me:x@y", "C://Users/me:x@y", "log:/var/me@x", "sqlite:/runs/me@x:y.db",
    "http://h:5000/p", "http://host:8080/x@y", "a@b", "http://h:5000/a%3Ab@x", "https://h/a?t=10:30&b=c@d", "author=me",
    "postgresql://h:5432/db?user=me@corp", "hdfs://nn:8020/a@b", "gs://bucket/run:1@x", "ssh://git@h:22/a@b",
    "no answer of postgresql://h:5432 (ask me@x.org), http://h:5000/p", "PWD=/home/me", "databricks://profile",
    "mongodb://h1:27017,h2:27017/db?user=a@b", "mlflow-artifacts://h:5000/x@y",
])  # fmt: skip
def test_everything_else_stays(text):
    assert mask_passwords(text) == mask_address(text) == text
    assert not is_masked(text)
    sentence = f"found {text!r}, expected another of me@x.org"
    assert mask_passwords(sentence) == sentence


def test_a_password_alone_in_the_error_of_a_library():
    address = "postgresql://me:hunter%402@h/db"
    assert mask_passwords("no login with 'hunter@2' (hunter%402)", address) == "no login with '***' (***)"
    assert mask_address("""postgresql://me:my pass's@h/db""") == "postgresql://me:***@h/db"
    assert is_masked(MASKED) and is_masked("https://***@h") and is_masked("https://***") and not is_masked(ADDRESS)


def test_errors_and_logs_are_masked(caplog):
    assert str(UserError(f"trainer.watch.mlflow: found {ADDRESS!r}")) == f"trainer.watch.mlflow: found {MASKED!r}"
    with caplog.at_level(logging.INFO, logger="speech_jax"):
        log.warning("%s: %d %% of %s", "x", 5, ADDRESS)
        log.info("nothing %s", 3)
    assert caplog.messages == [f"x: 5 % of {MASKED}", "nothing 3"]
    try:
        raise ValueError(ADDRESS)
    except ValueError:
        record = logging.LogRecord("library", logging.ERROR, "f", 1, "at %s", (ADDRESS,), sys.exc_info())
    text = MaskingFormatter("%(message)s").format(record)
    assert text.count(MASKED) == 2 and "Traceback" in text and "hunter2" not in text
    assert mask_record(logging.LogRecord("library", logging.ERROR, "f", 1, "%d", ("x",), None))


@pytest.mark.parametrize("kind", [UserError, ValueError])
def test_a_front_door_masks_what_it_prints_and_what_libraries_read(monkeypatch, capsys, kind):
    monkeypatch.setattr(sys, "argv", ["train", "--debug", "--trainer.watch.mlflow", ADDRESS])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def main(argv):
        assert argv == ["--trainer.watch.mlflow", ADDRESS]
        assert sys.argv == ["train", "--debug", "--trainer.watch.mlflow", MASKED]
        raise kind("x") from RuntimeError(ADDRESS)

    with pytest.raises(kind) as raised:
        run_front_door(main)
    sys.excepthook(raised.type, raised.value, raised.tb)
    printed = capsys.readouterr().err
    assert "Traceback" in printed and f"RuntimeError: {MASKED}" in printed and "hunter2" not in printed


@pytest.mark.parametrize("flags", [["--help"], ["--trainer.watch.mlfow", ADDRESS], ["--trainer.steps", ADDRESS]])
def test_help_and_wrong_flags_show_none(tmp_path, capsys, flags):
    file = tmp_path / "config.py"
    file.write_text(
        "from speech_jax.config import TrainConfig\nfrom speech_jax.data.config import DataConfig, SourceConfig\n"
        "config = TrainConfig('runs/x', DataConfig((SourceConfig(path='https://me:hunter2@h/x'),)))\n"
    )
    with pytest.raises(SystemExit if flags == ["--help"] else UserError) as end:
        parse_config(["--config", str(file), *flags])
    shown = "".join(capsys.readouterr()) + str(end.value)
    assert ("https://me:***@h/x" if flags == ["--help"] else flags[0]) in shown
    assert "hunter2" not in shown
    config = parse_config(["--config", str(file), "--trainer.watch.mlflow", ADDRESS])
    assert config.trainer.watch.mlflow == ADDRESS and config.data.sources[0].path == "https://me:hunter2@h/x"


def test_a_saved_config_has_no_password_and_is_no_other():
    config = DataConfig(sources=(SourceConfig(path="https://me:hunter2@h/x.jsonl"), SourceConfig(path="b")))
    assert "hunter2" not in to_text(config) and "https://me:***@h/x.jsonl" in to_text(config)
    saved = DataConfig(sources=(SourceConfig(path="https://me:***@h/x.jsonl"), SourceConfig(path="b")))
    assert differences(config, saved) == []
    assert mask_config(config) == saved and mask_config(saved) is saved
    watch = WatchConfig(mlflow=r"sqlite:///C:\a@b.db")
    assert from_dict(WatchConfig, json.loads(to_text(watch))) == watch


def test_differences_are_named():
    a, b = ConformerConfig(width=144, layers=2), ConformerConfig(width=256, layers=2, dropout=0.5)
    assert differences(a, a, "m") == []
    assert describe_differences(differences(a, b, "task.model")) == (
        "task.model.width: 144 and 256; task.model.dropout: 0.1 and 0.5"
    )
    assert differences(a, CRNNConfig(), "task.model") == [("task.model", "ConformerConfig", "CRNNConfig")]
    one, two = (DataConfig(sources=tuple(SourceConfig(path=p) for p in paths)) for paths in ("abc", "abd"))
    assert differences(one, two) == [("sources[2].path", "c", "d")]
    assert describe_differences([("x", (1,) * 9, ())]) == "x: 9 values and ()"

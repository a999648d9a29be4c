import configparser
import importlib.util
import shutil
import subprocess
import sys
import zipfile

import pytest

from qcvl import config

CHECKOUT = config.CONF_DIR.parent
SETUP = configparser.ConfigParser()
SETUP.read(CHECKOUT / "setup.cfg")


def packages_in_the_checkout():
    inits = (CHECKOUT / "qcvl").rglob("__init__.py")
    return {".".join(path.parent.relative_to(CHECKOUT).parts) for path in inits} | {"qcvl.conf"}


def test_setup_cfg_lists_every_package():
    assert set(SETUP["options"]["packages"].split()) == packages_in_the_checkout()


def test_every_console_script_has_its_module_and_its_root():
    scripts = dict(line.split(" = ") for line in SETUP["options.entry_points"]["console_scripts"].strip().splitlines())
    for name, target in scripts.items():
        module, _, function = target.partition(":")
        assert function == "main" and module == "qcvl." + name.removeprefix("qcvl-")
        assert importlib.util.find_spec(module) is not None, module
        assert (config.CONF_DIR / f"{module.removeprefix('qcvl.')}.yaml").is_file()


@pytest.mark.slow
def test_an_installed_wheel_carries_its_configuration_and_finds_it(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(CHECKOUT / "qcvl", source / "qcvl", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CHECKOUT / "conf", source / "conf")
    for name in ("setup.cfg", "pyproject.toml", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    (source / "README.md").write_text("")
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path, source]
    subprocess.run(wheel, check=True)
    (built,) = tmp_path.glob("qcvl-*.whl")
    names = set(zipfile.ZipFile(built).namelist())
    yamls = {f"qcvl/conf/{path.relative_to(config.CONF_DIR)}" for path in config.CONF_DIR.rglob("*.yaml")}
    assert yamls <= names
    tiny = [path for path in (CHECKOUT / "qcvl/models/tiny").iterdir() if path.is_file() and path.suffix != ".py"]
    assert {f"qcvl/models/tiny/{path.name}" for path in tiny} <= names
    site, decoy = tmp_path / "site", tmp_path / "site/conf"
    zipfile.ZipFile(built).extractall(site)
    decoy.mkdir()  # what another project may leave beside it
    (decoy / "train.yaml").write_text("seed: 1")
    ask = "from qcvl import config; print(config.CONF_DIR); print(config.load('train', ['stage=2']).stage.number)"
    done = subprocess.run([sys.executable, "-c", ask], cwd=site, capture_output=True, text=True)
    assert done.stdout.splitlines() == [str(site / "qcvl/conf"), "2"], done.stderr

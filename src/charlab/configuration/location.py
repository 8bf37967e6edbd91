"""Where the configuration lies."""

from pathlib import Path

from charlab.errors import UserError


def conf_folder() -> Path:
    """Returns the absolute path of the `conf` folder: inside the installed package, or beside `src` in a checkout.

    Raises:
        UserError: if neither is there.
    """
    here = Path(__file__).resolve()
    installed, checkout = here.parents[1] / "conf", here.parents[3] / "conf"
    for folder in (installed, checkout):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"The configuration is in neither {installed} nor {checkout}: install charlab again.")

"""Add users' own configuration to Hydra's search path. Hydra discovers plugins in this namespace only."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class CharlabSearchPath(SearchPathPlugin):
    """Append the folder `conf` in the working directory to the search path, after charlab's own configuration.

    Then comes a folder that the command line names (`--config-dir`).
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders, for charlab's programs only."""
        # Imported here, since Hydra imports this file at startup.
        from charlab.configuration.sources import FURTHER, conf_folder, user_conf_folder

        mains = [entry.path for entry in search_path.get_path() if entry.provider == "main"]
        own, further = conf_folder(), user_conf_folder()
        if further is not None and mains and mains[0] in (str(own), f"file://{own}"):
            search_path.append("working folder", f"file://{further}")
        if (named := FURTHER.get()) is not None:
            search_path.append("command-line", f"file://{named}")

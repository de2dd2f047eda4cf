"""Where the servers are and how a service behaves: arguments over the environment over one YAML file over defaults.

The file is `headwater.yaml` in the working directory, or the one that `HEADWATER_CONFIG` names. It is flat: one line for each setting, by its
name. `HEADWATER_POSTGRES` and `HEADWATER_KAFKA` point at servers; what is left out everywhere is run embedded, for development.

Who is authoritative: `Settings`, whose fields are the settings. The file's names, the variables and the page docs/configuration.md follow them.
"""

from headwater.config.addresses import redact
from headwater.config.origins import EffectiveSetting, effective_settings
from headwater.config.settings import TOPIC_PARTITIONS_MAX, KafkaProtocol, SaslMechanism, Settings, Source, load_settings
from headwater.config.yaml_file import CONFIG_FILE, CONFIG_VARIABLE, FILE_BYTES_MAX, config_path

__all__ = [
    "CONFIG_FILE",
    "CONFIG_VARIABLE",
    "FILE_BYTES_MAX",
    "TOPIC_PARTITIONS_MAX",
    "EffectiveSetting",
    "KafkaProtocol",
    "SaslMechanism",
    "Settings",
    "Source",
    "config_path",
    "effective_settings",
    "load_settings",
    "redact",
]

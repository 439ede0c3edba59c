"""Engine and API of Heat in one process: the transport fake://, which needs no broker, goes no further than that."""

import eventlet

eventlet.monkey_patch()

from heat import version  # noqa: E402
from heat.cmd import engine  # noqa: E402
from heat.common import config, messaging  # noqa: E402
from oslo_config import cfg  # noqa: E402
from oslo_log import log  # noqa: E402

log.register_options(cfg.CONF)
cfg.CONF(["--config-file", "/etc/heat/heat.conf"], project="heat", prog="heat-all", version=version.version_info.version_string())
log.setup(cfg.CONF, "heat")
config.set_config_defaults()
messaging.setup()
running = engine.launch_engine(setup_logging=False)
eventlet.wsgi.server(eventlet.listen(("0.0.0.0", 8004)), config.load_paste_app("heat-api"))

"""The WSGI entry for one's own server: `gunicorn --threads 8 admin_ui.wsgi:app`.

One process with threads: admin_ui.registrations keeps its jobs in memory.
"""

from admin_ui.app import create_app
from admin_ui.config import AdminConfig
from registry.logs import configure_logging
from registry.settings import load_settings

configure_logging()
app = create_app(AdminConfig.from_settings(load_settings()))

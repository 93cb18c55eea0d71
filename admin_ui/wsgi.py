"""The gunicorn entry: `gunicorn admin_ui.wsgi:app`."""

from admin_ui.app import create_app
from admin_ui.config import AdminConfig
from registry.settings import load_settings

app = create_app(AdminConfig.from_settings(load_settings()))

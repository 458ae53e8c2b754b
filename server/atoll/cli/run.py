"""Runs a server in this process, on one event loop, until a signal ends it."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

import uvloop
from atoll_ipc.memory import ArenaSettings

from atoll.cli.lifecycle import report_startup_failure, serve
from atoll.cli.options import Options
from atoll.cli.wiring import (
    backend_path,
    backend_settings,
    endpoints,
    log_settings,
    metrics_options,
    option_rows,
)
from atoll.core.backend_config import PythonBackendOptions, python_backend_options
from atoll.core.server import Server, ServerOptions
from atoll.environments.cache import default_directory
from atoll.errors import Code, ServerError
from atoll.observe import tables
from atoll.observe.log import LogSettings, install, log_table, remove

__all__ = ["run"]

_log = logging.getLogger(__name__)


def run(options: Options) -> int:
    """Serve as ``options`` say; return the exit status."""
    try:
        settings = log_settings(options)
    except OSError as error:
        report_startup_failure(
            ServerError(Code.INVALID_ARG, f"failed to open log file '{options.log_file}': {error.strerror}")
        )
        return 1
    handler = install(settings, whole_process=True)
    try:
        # A crash of the interpreter itself leaves a stack trace. Where standard error is closed there is nowhere to.
        if sys.stderr is not None:
            faulthandler.enable()
        for name in options.ignored:
            _log.warning("--%s has no meaning here and is ignored", name)
        for name in options.metrics_config.ignored:
            _log.warning("--metrics-config=%s has no meaning here and is ignored", name)
        if not options.model_repository:
            raise ServerError(Code.INVALID_ARG, "--model-repository must be specified")
        python = python_backend_options(options.backend_settings("python"))
        for name in python.ignored:
            _log.warning("--backend-config=python,%s has no meaning here and is ignored", name)
        return uvloop.run(_serve(options, python, settings))
    except ServerError as error:
        report_startup_failure(error)
        return 1
    finally:
        remove(handler)


async def _serve(options: Options, python: PythonBackendOptions, log: LogSettings) -> int:
    server = Server(
        ServerOptions(
            id=options.id,
            repositories=options.model_repository,
            exit_on_error=options.exit_on_error,
            model_control_mode=options.model_control_mode,
            repository_poll_s=options.repository_poll_secs,
            startup_models=options.load_model,
            model_namespacing=options.model_namespacing,
            host_policies=options.host_policy,
            auto_complete_config=not options.disable_auto_complete_config,
            strict_readiness=options.strict_readiness,
            model_config_name=options.model_config_name,
            backend_directory=options.backend_directory,
            load_thread_count=options.model_load_thread_count,
            rate_limits=options.rate_limit_resource if options.rate_limit == "execution_count" else None,
            load_retry_count=options.model_load_retry_count,
            cache=options.cache_config,
            cache_directory=options.cache_directory,
            arena=ArenaSettings(
                default_nbytes=python.shm_default_byte_size,
                growth_nbytes=python.shm_growth_byte_size,
                prefix=python.shm_region_prefix_name,
                backing=python.shm_backing,
            ),
            stub_timeout_s=python.stub_timeout_seconds,
            env_cache_directory=Path(python.env_cache_directory or default_directory()),
            env_cache_nbytes=python.env_cache_size,
            metrics=metrics_options(options),
            log=log,
            allow_client_shm=options.allow_client_shm,
            trace=options.trace,
        )
    )

    async def show_tables(all_well: bool) -> None:
        index = await server.index()
        if not all_well and not index:
            return  # it failed before it knew of any model
        log_table(tables.agent_table())
        log_table(tables.backend_table(backend_path(), backend_settings(options)))
        log_table(tables.model_table(index))
        log_table(tables.options_table(option_rows(options, server.EXTENSIONS)))

    def abandon(status: int) -> NoReturn:
        server.discard_copies()
        os._exit(status)

    return await serve(
        server,
        endpoints(server, options),
        exit_timeout_s=options.exit_timeout_secs,
        on_loaded=show_tables,
        abandon=abandon,
    )

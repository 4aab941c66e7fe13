"""The stages of the workflow as Prefect tasks."""

"""Results, verdict, plots, report, comparison and audits: what people look at."""

"""HTTP: metrics and health for scrapers and orchestrators."""

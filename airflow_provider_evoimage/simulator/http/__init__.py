"""The simulated service over HTTP: routes, answers, webhooks, the page for people."""

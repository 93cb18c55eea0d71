"""What is admitted, and what it has used: limits and budgets in Redis, attempts, and their way to the ledger."""

"""The workflow of the book: execute, record, stage, render, publish, grade; ``python -m companion.X`` runs one."""

"""Language models of the Llama family: units, scores, ablation, training, students, exact export."""

"""Language models built like Llama: units, scores, ablation, training, students, exact export."""

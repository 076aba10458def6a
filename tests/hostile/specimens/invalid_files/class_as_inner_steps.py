"""Makes inner_steps a class, whose objects are the result.

Expected: malformed_output
"""

class inner_steps:
    def __init__(self, model, data_iterator, optimizer, num_steps, device):
        self.final_logits = self.total_tokens = self.final_loss = None

"""Parts of the refiner `irn`: what edges are learnt from, and the learning."""

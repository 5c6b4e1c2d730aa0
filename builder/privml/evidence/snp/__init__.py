"""Evidence of AMD SEV-SNP guests: reports, and the certificates of the keys that sign them.

`measure FILE` describes a report with it, and `verify.snp` judges one.
"""

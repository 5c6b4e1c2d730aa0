"""Evidence of AMD SEV-SNP guests: reports, and the certificates of the keys that sign them.

Pure. `measure FILE` describes a report with it; nothing accepts one yet.
"""

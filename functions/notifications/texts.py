"""The texts of emails, in French and English.

A text is a subject, paragraphs, and a link with its label. `{word}` stands for a value made of the
notification's facts (functions/notifications/values.py). A sentence of which a value is not known
is left out; of alternatives, a tuple, the first is taken whose values are all known. The last
subject has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Language = Literal["fr", "en"]
Link = Literal["app", "invitation", "invoice"]


@dataclass(frozen=True)
class Text:
    """One email in one language."""

    subjects: tuple[str, ...]
    paragraphs: tuple[str | tuple[str, ...], ...]
    action: str
    """Label of the link."""

    link: Link = "app"
    """Where it leads; to the app, under another label, where there is no invoice to show."""


@dataclass(frozen=True)
class Frame:
    """What is around every text of a language."""

    greetings: tuple[str, ...]
    for_organization: str
    why_transactional: str
    why_wanted: str
    open_app: str


FRAMES: Mapping[Language, Frame] = {
    "fr": Frame(
        greetings=("Bonjour {name},", "Bonjour,"),
        for_organization="Ce message concerne l’organisation {organization}.",
        why_transactional="Vous recevez ce message parce qu’il concerne votre compte {product}.",
        why_wanted=(
            "Vous recevez ce message parce que les notifications de votre compte {product} sont "
            "activées ; vous pouvez les désactiver dans votre profil."
        ),
        open_app="Ouvrir {product}",
    ),
    "en": Frame(
        greetings=("Hello {name},", "Hello,"),
        for_organization="This is about the organization {organization}.",
        why_transactional="You receive this message because it is about your {product} account.",
        why_wanted=(
            "You receive this message because notifications of your {product} account are on; you "
            "can switch them off in your profile."
        ),
        open_app="Open {product}",
    ),
}

TEXTS: Mapping[str, Mapping[Language, Text]] = {
    "invitation": {
        "fr": Text(
            subjects=("Invitation à rejoindre {organization}", "Vous êtes invité"),
            paragraphs=(
                "{inviter} vous invite à rejoindre l’organisation {organization} sur {product}.",
                "Vous la rejoindrez en tant que {role}. Connectez-vous avec cette adresse "
                "électronique pour accepter.",
                "L’invitation est valable jusqu’au {expires_at}. Si vous ne l’attendiez pas, "
                "ignorez ce message.",
            ),
            action="Accepter l’invitation",
            link="invitation",
        ),
        "en": Text(
            subjects=("Invitation to join {organization}", "You are invited"),
            paragraphs=(
                "{inviter} invites you to join the organization {organization} on {product}.",
                "You will join as {role}. Sign in with this email address to accept.",
                "The invitation is valid until {expires_at}. If you did not expect it, ignore "
                "this message.",
            ),
            action="Accept the invitation",
            link="invitation",
        ),
    },
    "receipt": {
        "fr": Text(
            subjects=("Reçu de votre paiement de {amount}", "Reçu de votre paiement"),
            paragraphs=(
                "Nous avons bien reçu votre paiement de {amount}. Merci !",
                "Objet : {description}",
                "{credits} crédits ont été ajoutés à votre compte.",
            ),
            action="Voir la facture",
            link="invoice",
        ),
        "en": Text(
            subjects=("Receipt for your payment of {amount}", "Receipt for your payment"),
            paragraphs=(
                "We have received your payment of {amount}. Thank you!",
                "For: {description}",
                "{credits} credits were added to your account.",
            ),
            action="See the invoice",
            link="invoice",
        ),
    },
    "payment_failed": {
        "fr": Text(
            subjects=("Votre paiement de {amount} a été refusé", "Votre paiement a été refusé"),
            paragraphs=(
                "Votre paiement n’a pas abouti. Vérifiez votre moyen de paiement.",
                "Il s’agit de la recharge automatique : {pack}.",
                "Montant : {amount}",
                "Une nouvelle tentative aura lieu le {next_attempt_at}.",
                "La recharge automatique a été désactivée le {switched_off_at}. Réactivez-la une "
                "fois votre moyen de paiement vérifié.",
            ),
            action="Régler la facture",
            link="invoice",
        ),
        "en": Text(
            subjects=("Your payment of {amount} was declined", "Your payment was declined"),
            paragraphs=(
                "Your payment did not go through. Please check your payment method.",
                "It was for the automatic top-up: {pack}.",
                "Amount: {amount}",
                "We will try again on {next_attempt_at}.",
                "The automatic top-up was switched off on {switched_off_at}. Switch it on again "
                "once your payment method is in order.",
            ),
            action="Pay the invoice",
            link="invoice",
        ),
    },
    "invoice_overdue": {
        "fr": Text(
            subjects=("La facture {number} est en retard", "Une facture est en retard"),
            paragraphs=(
                "Une facture n’est pas encore réglée.",
                "Montant : {amount}",
                "Elle était à régler avant le {due_at}.",
            ),
            action="Régler la facture",
            link="invoice",
        ),
        "en": Text(
            subjects=("Invoice {number} is overdue", "An invoice is overdue"),
            paragraphs=(
                "An invoice has not been paid yet.",
                "Amount: {amount}",
                "It was due on {due_at}.",
            ),
            action="Pay the invoice",
            link="invoice",
        ),
    },
    "subscription_expiring": {
        "fr": Text(
            subjects=(
                "Votre abonnement {plan} prend fin le {ends_at}",
                "Votre période d’essai se termine le {trial_ends_at}",
                "Votre abonnement change bientôt",
            ),
            paragraphs=(
                "Votre abonnement prend fin le {ends_at}. Sans renouvellement, votre compte "
                "passera à la formule gratuite.",
                "Votre période d’essai se termine le {trial_ends_at} ; l’abonnement payant "
                "commence ensuite.",
                "Formule : {plan}",
            ),
            action="Gérer l’abonnement",
        ),
        "en": Text(
            subjects=(
                "Your {plan} subscription ends on {ends_at}",
                "Your trial ends on {trial_ends_at}",
                "Your subscription changes soon",
            ),
            paragraphs=(
                "Your subscription ends on {ends_at}. Unless it is renewed, your account moves to "
                "the free plan.",
                "Your trial ends on {trial_ends_at}; after it the paid subscription begins.",
                "Plan: {plan}",
            ),
            action="Manage the subscription",
        ),
    },
    "provider_key_invalid": {
        "fr": Text(
            subjects=("{provider} refuse votre clé", "Une de vos clés est refusée"),
            paragraphs=(
                "Un fournisseur n’accepte plus une clé que vous avez apportée ; les demandes qui "
                "l’utilisent sont refusées.",
                "Fournisseur : {provider}",
                "La clé se termine par {last_four}.",
                "Remplacez-la, ou réglez le fournisseur si son crédit est épuisé.",
            ),
            action="Gérer les clés",
        ),
        "en": Text(
            subjects=("{provider} does not accept your key", "One of your keys is not accepted"),
            paragraphs=(
                "A provider no longer accepts a key that you brought; requests that use it are "
                "refused.",
                "Provider: {provider}",
                "The key ends in {last_four}.",
                "Replace it, or pay the provider if its credit is used up.",
            ),
            action="Manage the keys",
        ),
    },
    "usage_threshold": {
        "fr": Text(
            subjects=(
                "Vous avez utilisé {percent} de votre limite",
                "Vous approchez de votre limite",
            ),
            paragraphs=(
                "Une bonne part d’une limite de ce mois est utilisée.",
                ("Utilisé : {used} {unit} sur {limit}", "Utilisé : {used} sur {limit}"),
                "Au-delà de la limite, les nouvelles demandes seront refusées.",
            ),
            action="Voir l’utilisation",
        ),
        "en": Text(
            subjects=("You have used {percent} of your limit", "You are close to your limit"),
            paragraphs=(
                "A good part of a limit of this month is used up.",
                ("Used: {used} of {limit} {unit}", "Used: {used} of {limit}"),
                "Beyond the limit, new requests will be refused.",
            ),
            action="See the usage",
        ),
    },
    "low_balance": {
        "fr": Text(
            subjects=("Il vous reste {balance} crédits", "Il vous reste peu de crédits"),
            paragraphs=(
                (
                    "Votre solde est passé sous {threshold} crédits.",
                    "Il vous reste peu de crédits.",
                ),
                "Solde : {balance} crédits",
                "Sans crédits, les nouvelles demandes seront refusées.",
            ),
            action="Acheter des crédits",
        ),
        "en": Text(
            subjects=("You have {balance} credits left", "You have few credits left"),
            paragraphs=(
                (
                    "Your balance has fallen below {threshold} credits.",
                    "You have few credits left.",
                ),
                "Balance: {balance} credits",
                "Without credits, new requests will be refused.",
            ),
            action="Buy credits",
        ),
    },
    "auto_top_up_stopped": {
        "fr": Text(
            subjects=("La recharge automatique est désactivée",),
            paragraphs=(
                "Un paiement vous a été remboursé ou est contesté. Nous avons donc désactivé la "
                "recharge automatique de vos crédits : rien ne sera débité tant que vous ne "
                "l’aurez pas réactivée.",
            ),
            action="Ouvrir l’application",
        ),
        "en": Text(
            subjects=("Automatic top-up is off",),
            paragraphs=(
                "A payment was refunded to you or is disputed, so we have switched the automatic "
                "top-up of your credits off. Nothing is charged until you switch it on again.",
            ),
            action="Open the application",
        ),
    },
    "webhook_disabled": {
        "fr": Text(
            subjects=("Votre webhook {host} a été désactivé", "Un webhook a été désactivé"),
            paragraphs=(
                "Un de vos webhooks a été désactivé, car son serveur n’accepte plus les "
                "événements que nous lui envoyons.",
                "Serveur : {host}",
                "Corrigez le serveur, puis réactivez le webhook. Ce qui s’est passé entre-temps "
                "ne sera pas renvoyé.",
            ),
            action="Ouvrir l’application",
        ),
        "en": Text(
            subjects=("Your webhook {host} was switched off", "A webhook was switched off"),
            paragraphs=(
                "One of your webhooks was switched off, because its server no longer takes the "
                "events we send.",
                "Server: {host}",
                "Mend the server, then switch the webhook on again. What happened in between "
                "will not be sent again.",
            ),
            action="Open the application",
        ),
    },
}
